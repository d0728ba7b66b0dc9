"""Quantization-aware training: layers compute with rounded inputs and weights, gradients pass as if they did not.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.errors import PassError

SUPPORTED = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def round_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric, one scale for each output channel (dimension 0), as the exported Q/DQ pairs have it."""
    limit = 2 ** (bits - 1) - 1
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / limit
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return _straight_through(weight, (weight / scale).round().clamp(-limit, limit) * scale)


def round_input(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Asymmetric, one scale for the tensor, over the range of this batch, which always includes zero."""
    low, high = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
    steps = 2**bits - 1
    scale = ((high - low) / steps).clamp_min(1e-12)
    zero = (-low / scale).round()
    return _straight_through(x, ((x / scale + zero).round().clamp(0, steps) - zero) * scale)


def _straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded value with the exact one's gradient (Bengio et al. 2013; Jacob et al. 2018)."""
    return exact + (rounded - exact).detach()


@contextmanager
def fake_quantized(module: torch.nn.Module, bits: int | None) -> Generator[None]:
    """Within the block, every linear and convolution layer rounds its input and weight to `bits` (None: does not).

    Weights stay float: afterwards they are those that rounding hurts least, and the ordinary quantization of the graph
    finds the same grid from them. Masks and codebooks are applied before the rounding.

    Raises:
        PassError: the module has no layer of these kinds.
    """
    if bits is None:
        yield
        return
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, SUPPORTED)]
    if not layers:
        raise PassError("quantize: the module has no linear or convolution layer to train for int8")
    for layer in layers:
        layer.forward = _rounding(layer, bits)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def _rounding(layer: Any, bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = round_weight(layer.weight, bits)
        if isinstance(layer, torch.nn.Linear):
            return F.linear(round_input(x, bits), weight, layer.bias)
        return layer._conv_forward(round_input(x, bits), weight, layer.bias)  # noqa: SLF001  # keeps padding modes

    return forward
