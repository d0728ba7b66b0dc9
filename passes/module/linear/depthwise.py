"""The depthwise and pointwise convolution that stand for one convolution.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from typing import Any

import torch

from enginery.passes.module.low_rank.moments import Moments

RIDGE = 1e-6
"""Added to the covariance that the fit inverts, relative to its mean diagonal."""


@torch.no_grad()
def separated(layer: Any, multiplier: int, moments: Moments | None) -> tuple[torch.nn.Sequential, float]:
    """`Sequential(depthwise, pointwise)` for an ungrouped 2-D convolution, and the share of energy that it keeps.

    With moments of the patches that the layer reads (mean m, covariance C), the pointwise weight P minimizes
    E |(W - P D)(x - m)|^2, D being the depthwise filters as a matrix: P = W C D^T (D C D^T)^-1; the bias takes over
    (W - P D) m. The energy is that of the outputs then, and of the weight without moments.
    """
    weight = layer.weight.detach().double().cpu()
    filters, pointwise = _decoupled(weight, multiplier, None if moments is None else moments.covariance)
    flat, spread = weight.flatten(1), _as_matrix(filters, multiplier)
    own = None if layer.bias is None else layer.bias.detach().double().cpu()
    if moments is None:
        lost, whole = (flat - pointwise @ spread).square().sum(), flat.square().sum()
        bias = own
    else:
        covariance = moments.covariance
        inner = spread @ covariance @ spread.T
        ridge = RIDGE * float(inner.diagonal().mean().clamp_min(1e-30))
        pointwise = torch.linalg.solve(
            inner + ridge * torch.eye(len(inner), dtype=torch.float64), spread @ covariance @ flat.T
        ).T
        rest = flat - pointwise @ spread
        lost, whole = ((rest @ covariance) * rest).sum(), ((flat @ covariance) * flat).sum()
        bias = rest @ moments.mean + (0 if own is None else own)
    pair = _layers(layer, filters, pointwise, bias)
    return pair, float(1 - lost / whole.clamp_min(1e-300))


def _decoupled(
    weight: torch.Tensor, multiplier: int, covariance: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Filters (in * multiplier, taps) and pointwise weights (out, in * multiplier) of a weight (out, in, kh, kw).

    With the covariance of whole patches, each input channel's slice is whitened by its own block of it.
    """
    slices = weight.flatten(2).movedim(1, 0)  # (in, out, taps)
    lower = None
    if covariance is not None:
        count, taps = slices.shape[0], slices.shape[2]
        blocks = covariance.reshape(count, taps, count, taps).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        ridge = RIDGE * blocks.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        lower = torch.linalg.cholesky(blocks + ridge[:, None, None] * torch.eye(taps, dtype=torch.float64))
    u, s, v = torch.linalg.svd(slices if lower is None else slices @ lower, full_matrices=False)
    root = s[:, :multiplier].sqrt()
    filters = root[:, :, None] * v[:, :multiplier]
    if lower is not None:
        filters = torch.linalg.solve_triangular(lower, filters, upper=False, left=False)
    pointwise = (u[:, :, :multiplier] * root[:, None]).movedim(1, 0).flatten(1)
    return filters.flatten(0, 1), pointwise


def _as_matrix(filters: torch.Tensor, multiplier: int) -> torch.Tensor:
    """The depthwise filters as a matrix (in * multiplier, in * taps) over flattened patches."""
    count, taps = filters.shape
    matrix = torch.zeros(count, count // multiplier, taps, dtype=filters.dtype)
    index = torch.arange(count)
    matrix[index, index // multiplier] = filters
    return matrix.flatten(1)


def _layers(
    layer: Any, filters: torch.Tensor, pointwise: torch.Tensor, bias: torch.Tensor | None
) -> torch.nn.Sequential:
    deep = torch.nn.Conv2d(
        layer.in_channels, len(filters), layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        groups=layer.in_channels, bias=False, padding_mode=layer.padding_mode,
    )  # fmt: skip
    flat = torch.nn.Conv2d(len(filters), layer.out_channels, 1, bias=bias is not None)
    deep, flat = (part.to(layer.weight.device, layer.weight.dtype) for part in (deep, flat))
    deep.weight.copy_(filters.reshape(deep.weight.shape))
    flat.weight.copy_(pointwise[:, :, None, None])
    if bias is not None and flat.bias is not None:
        flat.bias.copy_(bias)
    return torch.nn.Sequential(deep, flat).eval()
