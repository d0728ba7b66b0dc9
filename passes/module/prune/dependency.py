"""Groups of channels that must be removed together, found by torch-pruning's dependency graph.

Only loaded by passes that are being applied: it needs torch-pruning (extra `prune`).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginery.errors import MissingDependencyError, PassError
from enginery.passes.base import Feeds, Refusal
from enginery.passes.module.finish import is_plain
from enginery.passes.module.layers import CONVOLUTIONS, WEIGHTED
from enginery.passes.module.outputs import as_tensors, device_of
from enginery.passes.module.prune.attention_names import COUNTS, NAMES, OUTPUTS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Group:
    """Channels of `root` (a layer's name) and of every layer coupled to it; `size` channels in all."""

    root: str
    size: int
    members: tuple[str, ...]
    raw: Any


@dataclass(frozen=True)
class Dependencies:
    graph: Any
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]


def library() -> Any:
    """torch-pruning, or MissingDependencyError naming the extra."""
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingDependencyError(
            "structured pruning needs torch-pruning; install it with `pip install enginery[prune]`"
        ) from error
    return torch_pruning


def trace(module: torch.nn.Module, example: Feeds, pattern: str = ".*") -> Dependencies:
    """Find the groups whose shrinking layers all match `pattern`, and say why the others stay.

    Raises:
        PassError: the module carries masks, or `pattern` matches no layer.
    """
    if masked := [
        name for name, layer in module.named_modules() if isinstance(layer, WEIGHTED) and not is_plain(layer)
    ]:
        raise PassError(
            f"{masked[0]} carries a mask or a codebook, which cannot be cut; list structured pruning before "
            "prune-weights, prune-n-m and share-weights"
        )
    expression = re.compile(pattern)
    if not any(expression.fullmatch(n) for n, layer in module.named_modules() if isinstance(layer, WEIGHTED)):
        raise PassError(f"layers={pattern!r} matches no linear or convolution layer")
    tp = library()
    frozen = {p for p in module.parameters() if not p.requires_grad}
    module.requires_grad_()  # the graph is traced through autograd
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on unwrapped parameters; such groups are refused below
            graph = tp.DependencyGraph().build_dependency(
                module.eval(), example_inputs=as_tensors(example, device_of(module)), verbose=False
            )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return _sort(tp, graph, module, expression)


def _sort(tp: Any, graph: Any, module: torch.nn.Module, expression: re.Pattern[str]) -> Dependencies:
    """Split the graph's groups into those that may be cut, and refusals."""
    names = {layer: name for name, layer in module.named_modules()}
    groups: list[Group] = []
    refusals: list[Refusal] = []
    for raw in graph.get_all_groups(root_module_types=[tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR]):
        cut = [dep.target for dep, _ in raw if graph.is_out_channel_pruning_fn(dep.handler)]
        members = tuple(dict.fromkeys(names[t.module] for t in cut if isinstance(t.module, WEIGHTED)))
        if not all(expression.fullmatch(name) for name in members):
            continue
        root = members[0]
        if reason := _reason(tp, graph, raw, module, names):
            refusals.append(Refusal(root, reason))
        else:
            groups.append(Group(root, graph.get_out_channels(module.get_submodule(root)), members, raw))
    return Dependencies(graph, tuple(groups), tuple(refusals))


def _reason(tp: Any, graph: Any, raw: Any, module: torch.nn.Module, names: dict[Any, str]) -> str | None:
    """Why this group must stay whole; None if it may be cut."""
    for dep, _ in raw:
        target = dep.target
        shrinks = graph.is_out_channel_pruning_fn(dep.handler)
        if target.type == tp.ops.OPTYPE.OUTPUT or (shrinks and not target.outputs):
            return "its channels are an output of the model"
        if target.type == tp.ops.OPTYPE.CONCAT and target.module.offsets is None:
            # Where a concatenation is flattened before a linear layer, for example, torch-pruning loses the offsets.
            return "its channels meet a concatenation whose offsets torch-pruning does not know"
        if target.type == tp.ops.OPTYPE.PARAMETER:
            return "its channels meet a bare parameter of the model, whose meaning is unknown"
        name = names.get(target.module, "")
        if isinstance(target.module, CONVOLUTIONS) and _is_grouped(target.module):
            return f"its channels meet the grouped convolution {name}"
        if shrinks and isinstance(target.module, WEIGHTED) and (parent := _attention(module, name)):
            return f"its channels are split into attention heads by {parent}; use prune-heads"
    return None


def _is_grouped(layer: Any) -> bool:
    """Grouped, but not depthwise: a depthwise convolution shrinks with its input."""
    return layer.groups > 1 and not (layer.groups == layer.in_channels == layer.out_channels)


def _attention(module: torch.nn.Module, name: str) -> str | None:
    """The nearest enclosing module that splits channels into heads, judged by its attributes and children."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        parent = module.get_submodule(path)
        if ".".join(parts[end:]) in OUTPUTS:
            return None  # the output projection joins the heads; its own outputs are not split
        children = dict(parent.named_children())
        counted = any(isinstance(getattr(parent, key, None), int) for key in COUNTS)
        if counted or any(all(key in children for key in projections) for projections in NAMES):
            return path
    return None


def cut(dependencies: Dependencies, module: torch.nn.Module, drop: dict[str, list[int]]) -> None:
    """Remove the channels `drop[root]` of each group, in place."""
    for root, channels in drop.items():
        if channels:
            group = group_of(dependencies, module, root, channels)
            if not dependencies.graph.check_pruning_group(group):
                raise PassError(f"{root}: removing {len(channels)} channels would leave a layer without any")
            group.prune()


def group_of(dependencies: Dependencies, module: torch.nn.Module, root: str, channels: list[int]) -> Any:
    """torch-pruning's group for removing these channels of `root` from the module as it is now."""
    layer = module.get_submodule(root)
    pruner = dependencies.graph.get_pruner_of_module(layer)
    return dependencies.graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
