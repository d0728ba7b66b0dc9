"""What makes each channel of a group, and what reads it.

Only loaded by passes that are being applied: it needs torch-pruning (extra `prune`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from enginery.passes.base import Feeds
from enginery.passes.module.layers import WEIGHTED
from enginery.passes.module.outputs import infer_hooked
from enginery.passes.module.prune.dependency import Dependencies, Group, group_of
from enginery.passes.module.prune.proof import MIXING

NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


@dataclass
class Side:
    """A layer and, for each channel of the group, the layer's own channels that belong to it."""

    layer: torch.nn.Module
    index: list[list[int]]


@dataclass
class ChannelMap:
    """`makers` give the channels (convolutions, linear layers), `norms` scale them, `readers` read them.

    `passing` are layers with a weight for each channel, such as depthwise convolutions and PReLU. `mixed` names a
    normalization over channels.
    """

    size: int
    makers: list[Side] = field(default_factory=list[Side])
    norms: list[Side] = field(default_factory=list[Side])
    passing: list[Side] = field(default_factory=list[Side])
    readers: list[Side] = field(default_factory=list[Side])
    mixed: str | None = None


def channel_map(dependencies: Dependencies, module: torch.nn.Module, group: Group) -> ChannelMap:
    """Sort the members of a group by what they do with its channels."""
    names = {layer: name for name, layer in module.named_modules()}
    found = ChannelMap(group.size)
    raw: Any = group_of(dependencies, module, group.root, list(range(group.size)))
    for item in raw:
        layer = item.dep.target.module
        if isinstance(layer, MIXING):
            found.mixed = names[layer]
        side = Side(layer, [[] for _ in range(group.size)])
        for own, root in zip(item.idxs, item.root_idxs, strict=True):
            side.index[root].append(own)
        if isinstance(layer, NORMS):
            _add(found.norms, side)
        elif isinstance(layer, WEIGHTED):
            if getattr(layer, "groups", 1) > 1:
                _add(found.passing, side)
            elif dependencies.graph.is_out_channel_pruning_fn(item.dep.handler):
                _add(found.makers, side)
            else:
                _add(found.readers, side)
        elif isinstance(getattr(layer, "weight", None), torch.Tensor):
            _add(found.passing, side)
    return found


def _add(sides: list[Side], side: Side) -> None:
    """A layer stands once on each side, however many ways lead to it."""
    if not any(one.layer is side.layer for one in sides):
        sides.append(side)


@torch.no_grad()
def silent(
    module: torch.nn.Module, maps: Mapping[str, ChannelMap], batches: Iterable[Feeds]
) -> dict[str, torch.Tensor]:
    """For each group, which channels are exactly zero at all of their readers on all batches: bool (size,)."""
    readers = {id(side.layer): side.layer for one in maps.values() for side in one.readers}
    loudest: dict[int, torch.Tensor] = {}
    handles = [layer.register_forward_pre_hook(_recorder(loudest, key)) for key, layer in readers.items()]
    infer_hooked(module, batches, handles)
    return {root: _silent(one, loudest) for root, one in maps.items()}


def _recorder(loudest: dict[int, torch.Tensor], key: int):  # noqa: ANN202  # the hook's type is torch's own
    def record(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        axis = args[0].dim() - 1 if isinstance(layer, torch.nn.Linear) else 1
        now = args[0].detach().abs().movedim(axis, 0).flatten(1).amax(1).cpu()
        loudest[key] = torch.maximum(loudest[key], now) if key in loudest else now

    return record


def _silent(one: ChannelMap, loudest: Mapping[int, torch.Tensor]) -> torch.Tensor:
    quiet = torch.full((one.size,), fill_value=bool(one.readers))
    for side in one.readers:
        heard = loudest.get(id(side.layer))
        for channel, own in enumerate(side.index):
            # A reader that did not run shows nothing.
            quiet[channel] &= heard is not None and not bool(heard[own].any())
    return quiet
