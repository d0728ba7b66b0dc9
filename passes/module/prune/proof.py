"""The proof that a structural cut removed what it should have removed.

A channel whose readers have zero weights might as well not be there. So the whole module, with the readers of the
channels set to zero, must answer as the cut module does. Wrongly followed reshapes and concatenations show here, where
training would paper over them.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import copy

import torch

from enginery.errors import PassError
from enginery.passes.base import Feeds, Refusal
from enginery.passes.module.layers import WEIGHTED
from enginery.passes.module.outputs import Tensors, infer
from enginery.passes.module.prune.dependency import Dependencies, cut, group_of, trace

TOLERANCE = 1e-3
MIXING = (torch.nn.LayerNorm, torch.nn.GroupNorm)


def silenced(
    dependencies: Dependencies, module: torch.nn.Module, drop: dict[str, list[int]], example: Feeds
) -> Tensors | None:
    """The outputs with the removed channels silenced; None where a removal cannot equal silence.

    Normalization over channels takes its statistics over fewer of them after the cut. The weights are put back.
    """
    readers: list[tuple[torch.Tensor, list[int]]] = []
    for root, channels in drop.items():
        if not channels:
            continue
        for dep, index in group_of(dependencies, module, root, channels):
            if isinstance(dep.target.module, MIXING):
                return None
            reads = dependencies.graph.is_in_channel_pruning_fn(dep.handler)
            # A depthwise convolution passes each channel on by itself; its own readers are in the group too.
            if isinstance(dep.target.module, WEIGHTED) and reads and getattr(dep.target.module, "groups", 1) == 1:
                readers.append((dep.target.module.weight, index))
    before = [weight.detach().clone() for weight, _ in readers]
    try:
        with torch.no_grad():
            for weight, index in readers:
                weight[:, index] = 0
        return infer(module, example)
    finally:
        with torch.no_grad():
            for (weight, _), old in zip(reversed(readers), reversed(before), strict=True):
                weight.copy_(old)


def unsound(module: torch.nn.Module, dependencies: Dependencies, example: Feeds) -> list[Refusal]:
    """Groups whose first channel cannot be cut without breaking the module. The module itself is not touched.

    All groups are tried together, and one by one only where that fails: a stream that meets the model's own input, for
    example, cannot shrink, and the dependency graph does not see inputs.
    """
    roots = [group.root for group in dependencies.groups if group.size > 1]
    try:
        _trial(module, roots, example)
    except PassError:
        refusals: list[Refusal] = []
        for root in roots:
            try:
                _trial(module, [root], example)
            except PassError as error:
                refusals.append(Refusal(root, f"it cannot shrink: {error}"))
        return refusals
    return []


def _trial(module: torch.nn.Module, roots: list[str], example: Feeds) -> None:
    trial = copy.deepcopy(module)
    dependencies = trace(trial, example)
    drop = {root: [0] for root in roots}
    expected = silenced(dependencies, trial, drop, example)
    cut(dependencies, trial, drop)
    prove(trial, expected, example)


def prove(module: torch.nn.Module, expected: Tensors | None, example: Feeds) -> float | None:
    """The largest error relative to each output's scale; None without `expected`.

    Raises:
        PassError: it is above `TOLERANCE`, or the module no longer runs.
    """
    try:
        found = infer(module, example)
        errors = {
            name: float((found[name] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
            for name, wanted in (expected or {}).items()
            if wanted.is_floating_point()
        }
    except RuntimeError as error:
        raise PassError(f"after the cut the module does not run ({str(error).splitlines()[0]})") from error
    if not errors:
        return None
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:
        raise PassError(
            f"after the cut, output {worst} is off by {errors[worst]:.3g} of its scale from the module with the same "
            "channels silenced: the dependency graph was misread; leave the layers out with layers="
        )
    return errors[worst]
