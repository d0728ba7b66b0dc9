"""The product of two linear layers or convolutions.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from typing import Any

import torch

from enginery.passes.module.layers import CONVOLUTIONS


def obstacle(first: Any, second: Any) -> str | None:
    """Why `second(first(x))` is not merged into one layer; None if it is."""
    if isinstance(first, torch.nn.Linear) and isinstance(second, torch.nn.Linear):
        return _growth(second.out_features * first.in_features, first, second)
    if type(first) is not type(second) or not isinstance(first, CONVOLUTIONS):
        return f"a {type(second).__name__} after a {type(first).__name__} is no single layer"
    if first.groups > 1 or second.groups > 1:
        return "one of them is a grouped convolution"
    if _pointwise(second):
        taps = first.weight[0, 0].numel()
    elif not _pointwise(first) or any(step != 1 for step in first.stride):
        return "neither is a 1x1 convolution that commutes with the other's stride and padding"
    elif first.bias is not None and (isinstance(second.padding, str) or any(second.padding)):
        return "the second pads with zeros, which the first one's bias does not reach"
    elif second.padding_mode != "zeros":
        return f"the second pads with padding_mode={second.padding_mode!r}"
    else:
        taps = second.weight[0, 0].numel()
    return _growth(second.out_channels * first.in_channels * taps, first, second)


def _pointwise(layer: Any) -> bool:
    return (
        all(size == 1 for size in layer.kernel_size) and not isinstance(layer.padding, str) and not any(layer.padding)
    )


def _growth(elements: int, first: Any, second: Any) -> str | None:
    apart = first.weight.numel() + second.weight.numel()
    return f"the product has {elements:,} elements, the two have {apart:,}" if elements > apart else None


@torch.no_grad()
def product(first: Any, second: Any) -> torch.nn.Module:
    """One layer that computes `second(first(x))`; only where `obstacle` finds none. Multiplied out in float64."""
    w1, w2 = first.weight.double(), second.weight.double()
    shift = w2.flatten(2).sum(2) if w2.dim() > 2 else w2
    bias = None if second.bias is None else second.bias.double()
    if first.bias is not None:
        bias = shift @ first.bias.double() + (0 if bias is None else bias)
    if isinstance(first, torch.nn.Linear):
        merged: Any = torch.nn.Linear(first.in_features, second.out_features, bias=bias is not None)
        weight = w2 @ w1
    else:
        # The one with a kernel of its own; its padding is the product's.
        inner = first if _pointwise(second) else second
        kind: Any = type(first)
        merged = kind(
            first.in_channels, second.out_channels, inner.kernel_size,
            stride=tuple(a * b for a, b in zip(first.stride, second.stride, strict=True)),
            padding=inner.padding, dilation=inner.dilation, bias=bias is not None, padding_mode=inner.padding_mode,
        )  # fmt: skip
        if inner is first:
            weight = torch.einsum("om,mi...->oi...", w2.flatten(1), w1)
        else:
            weight = torch.einsum("om...,mi->oi...", w2, w1.flatten(1))
    merged = merged.to(first.weight.device, first.weight.dtype)
    merged.weight.copy_(weight)
    if bias is not None:
        merged.bias.copy_(bias)
    return merged.eval()
