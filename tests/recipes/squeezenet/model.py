"""SqueezeNet v1.0 (Iandola et al. 2016), with weights that its authors pruned and shared (Han et al. 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)


class Fire(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, 4 * squeezed, 1)
        self.expand3 = nn.Conv2d(squeezed, 4 * squeezed, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = functional.relu(self.squeeze(hidden))
        return functional.relu(torch.cat([self.expand1(hidden), self.expand3(hidden)], 1))


class SqueezeNet(nn.Module):
    """image: float32 [batch, 3, 227, 227], BGR in 0..255 minus the mean -> logits: float32 [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        channels = 96
        for number, squeezed in enumerate(SQUEEZED, start=2):
            self.add_module(f"fire{number}", Fire(channels, squeezed))
            channels = 8 * squeezed
        self.conv10 = nn.Conv2d(channels, 1000, 1, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = _pool(functional.relu(self.conv1(image)))
        for number in range(2, 10):
            hidden = self.get_submodule(f"fire{number}")(hidden)
            if number in (4, 8):
                hidden = _pool(hidden)
        return functional.relu(self.conv10(hidden)).mean((2, 3))


def _pool(hidden: Tensor) -> Tensor:
    return functional.max_pool2d(hidden, 3, stride=2, ceil_mode=True)


def build() -> nn.Module:
    return SqueezeNet()
