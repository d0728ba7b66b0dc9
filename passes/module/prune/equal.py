"""Dead and equal channels of a group.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from enginery.passes.module.prune.channel_map import ChannelMap, Side


@torch.no_grad()
def dead(one: ChannelMap, quiet: torch.Tensor, *, certain: bool) -> list[int]:
    """Channels that nothing reads, or that are `quiet`; with `certain`, only such as no input can move."""
    found: list[int] = []
    for channel in range(one.size):
        unread = bool(one.readers) and all(_zero(_columns(side, channel)) for side in one.readers)
        still = bool(quiet[channel]) and (not certain or _constant(one, channel))
        if unread or still:
            found.append(channel)
    return found


def _constant(one: ChannelMap, channel: int) -> bool:
    """No input moves the channel: it is made of zeros, or each of its makers is scaled by zero."""
    if all(_zero(_rows(side, channel)) for side in one.makers):
        return True
    scaled = [
        side.layer.weight[side.index[channel]] for side in one.norms if isinstance(side.layer.weight, torch.Tensor)
    ]
    return len(scaled) >= len(one.makers) and len(scaled) == len(one.norms) and all(_zero(scale) for scale in scaled)


@torch.no_grad()
def equal(one: ChannelMap, lost: list[int]) -> dict[int, int]:
    """Each channel that equals an earlier one, and that one. Channels in `lost` take no part."""
    first: dict[bytes, int] = {}
    twins: dict[int, int] = {}
    for channel in sorted(set(range(one.size)) - set(lost)):
        key = _digest(one, channel)
        if key in first:
            twins[channel] = first[key]
        else:
            first[key] = channel
    return twins


@torch.no_grad()
def merge(one: ChannelMap, twins: Mapping[int, int]) -> None:
    """Add what reads the second channel of each pair to what reads the first, in place."""
    for side in one.readers:
        weight = side.layer.get_parameter("weight")
        for second, first in twins.items():
            weight[:, side.index[first]] += weight[:, side.index[second]]


def _digest(one: ChannelMap, channel: int) -> bytes:
    """Of all numbers that make the channel."""
    digest = hashlib.sha256()
    for side in (*one.makers, *one.norms, *one.passing):
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(side.layer, name, None)
            if isinstance(tensor, torch.Tensor):
                # Adding zero makes one zero of the two that floats have.
                digest.update((tensor[side.index[channel]] + 0.0).cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _rows(side: Side, channel: int) -> torch.Tensor:
    return side.layer.get_parameter("weight")[side.index[channel]]


def _columns(side: Side, channel: int) -> torch.Tensor:
    return side.layer.get_parameter("weight")[:, side.index[channel]]


def _zero(tensor: torch.Tensor) -> bool:
    return not bool(tensor.any())
