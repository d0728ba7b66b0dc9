"""A convolutional net with batch normalization, a residual connection and a depthwise layer; 98 % on held-out digits.

It is small, but has what makes convolutional nets hard to quantize, so that a newcomer sees every gate at work.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from enginery.models.digits.data import digits


class Block(nn.Module):
    """Depthwise 3x3, then pointwise; the input is added to the result."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.relu(self.depthwise_norm(self.depthwise(image)))
        return functional.relu(image + self.pointwise_norm(self.pointwise(hidden)))


class DigitsNet(nn.Module):
    """image: float32 [batch, 1, 8, 8] in 0..1 -> logits: float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.block = Block(32)
        self.wide = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(64)
        self.classify = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.relu(self.stem_norm(self.stem(image)))
        hidden = self.block(hidden)
        hidden = functional.relu(self.wide_norm(self.wide(hidden)))
        return self.classify(hidden.mean(dim=(2, 3)))


def build(epochs: int = 12, seed: int = 0) -> nn.Module:
    """Train the net on the digits that are not held out; the same weights on every run of one machine."""
    with _one_thread(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DigitsNet()
        _train(model, epochs)
    return model.eval()


def _train(model: nn.Module, epochs: int) -> None:
    images, labels = (torch.from_numpy(array) for array in digits("train"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    size = 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * -(-len(labels) // size))
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(size):
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@contextmanager
def _one_thread() -> Generator[None]:
    """The order of a parallel sum, and so the last bits of the weights, would depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
