"""What a module weighs: parameters, non-zero parameters, bytes and multiply-accumulates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from enginery.passes.base import Feeds

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Figures:
    """`parameters` and `nonzero` count elements of distinct tensors, `bytes` is their size, `macs` are one sample's.

    MACs count matrix products, convolutions and attention, as `torch.utils.flop_counter` does; one
    multiply-accumulate is two of its FLOPs. Masked zeros still count as MACs: a dense runtime computes them.
    """

    parameters: int
    nonzero: int
    bytes: int
    macs: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def count_macs(module: torch.nn.Module, example: Feeds) -> int:
    """Multiply-accumulates of one forward pass over `example`, for the whole batch."""
    from torch.utils.flop_counter import FlopCounterMode

    from enginery.passes.module.outputs import infer

    with FlopCounterMode(display=False) as counter:
        infer(module, example)
    return counter.get_total_flops() // 2


def figures(module: torch.nn.Module, example: Feeds) -> Figures:
    """Measure `module`; masks and codebooks count as the weights that they produce."""
    from enginery.passes.module.finish import plain_tensors

    batch = max((array.shape[0] for array in example.values() if array.ndim), default=1)
    tensors = list(plain_tensors(module))
    return Figures(
        parameters=sum(t.numel() for t in tensors),
        nonzero=sum(int(t.count_nonzero()) for t in tensors),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        macs=count_macs(module, example) // batch,
    )
