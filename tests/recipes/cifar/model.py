"""ResNet for CIFAR (He et al. 2015, section 4.2) with shortcuts of option A: no parameters."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride = stride
        self.added = (after - before) // 2

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden
        if self.stride == 2:
            shortcut = functional.pad(hidden[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        hidden = functional.relu(self.bn1(self.conv1(hidden)))
        return functional.relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResNet(nn.Module):
    """image: float32 [batch, 3, 32, 32], normalized -> logits: float32 [batch, 10]."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(image)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))


def build(depth: int, weights: Mapping[str, Any]) -> nn.Module:
    """`depth` is 6 n + 2 with n blocks a stage. The weights were saved from a data-parallel module."""
    model = ResNet((depth - 2) // 6)
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights["state_dict"].items()})
    return model


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(after, after, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(before, after, stride), *rest)
