"""Linear layers and 1x1 convolutions in each other's place.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import torch


class LinearAsConvolution(torch.nn.Module):
    """A linear layer (..., in) -> (..., out) computed as a 1x1 convolution over the positions."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        bias = getattr(linear, "bias", None)
        made = torch.nn.Conv2d(linear.in_features, linear.out_features, 1, bias=bias is not None)
        self.convolution = made.to(linear.weight.device, linear.weight.dtype)
        with torch.no_grad():
            self.convolution.weight.copy_(linear.weight[:, :, None, None])
            if bias is not None:
                self.convolution.get_parameter("bias").copy_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            return self.convolution(x[:, :, None, None]).flatten(1)
        rows = x.flatten(1, -2).transpose(1, 2)[..., None]
        y = self.convolution(rows).squeeze(-1).transpose(1, 2)
        return y if x.dim() == 3 else y.unflatten(1, x.shape[1:-1])


class ConvolutionAsLinear(torch.nn.Module):
    """A 1x1 convolution (batch, in, ...) -> (batch, out, ...) computed as a linear layer over the channels."""

    def __init__(self, convolution: torch.nn.Module) -> None:
        super().__init__()
        weight = convolution.get_parameter("weight")
        bias = convolution.bias if isinstance(convolution.bias, torch.Tensor) else None
        self.linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        self.linear.to(weight.device, weight.dtype)
        with torch.no_grad():
            self.linear.weight.copy_(weight.flatten(1))
            if bias is not None:
                self.linear.bias.copy_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x.dim() - 1
        return self.linear(x.movedim(1, last)).movedim(last, 1)
