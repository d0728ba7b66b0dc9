"""The Fashion-MNIST networks and data that bench/compression.py compresses.

60,000 training images are split into 55,000 for training and the last 5,000 for choosing epochs; test-dev's 5,000 are
only ever scored. Accuracies are in percent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from enginery.passes.base import ModuleContext
from enginery.passes.module.recover import Recover

VALIDATION = 5000
BATCH = 500


class Cnn(nn.Module):
    """x [batch, 1, 28, 28] -> logits [batch, 10]. 10.6 million MACs and 158,000 parameters at `width=32`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide, wider = 2 * width, 3 * width
        self.stem, self.norm1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.middle, self.norm2 = nn.Conv2d(width, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
        self.deep, self.norm3 = nn.Conv2d(wide, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider)
        self.residual, self.norm4 = nn.Conv2d(wider, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider)
        self.head = nn.Linear(wider, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.stem(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.middle(x))), 2)
        x = torch.relu(self.norm3(self.deep(x)))
        x = torch.relu(x + self.norm4(self.residual(x)))
        return self.head(x.mean((2, 3)))


def student() -> nn.Module:
    """At most 1/8 of the parameters: a third of the width."""
    return Cnn(width=11)


class Fashion:
    def __init__(self, folder: Path, samples: int | None = None) -> None:
        with np.load(folder / "fashion-mnist" / "train.npz") as file:
            images, labels = _images(file["X"]), file["Y"].astype(np.int64)
        with np.load(folder / "fashion-mnist" / "test-dev.npz") as file:
            self.test = _images(file["X"]), file["Y"].astype(np.int64)
        self.validation = images[-VALIDATION:], labels[-VALIDATION:]
        end = len(images) - VALIDATION if samples is None else samples
        self.images, self.labels = images[:end], labels[:end]

    def batches(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        for start in range(0, len(self.images), BATCH):
            yield {"x": self.images[start : start + BATCH]}, self.labels[start : start + BATCH]

    def context(self, seed: int, work: Path | None) -> ModuleContext:
        return ModuleContext(
            example={"x": self.images[:2]},
            batches=self.batches,
            metric=lambda module: accuracy(module, *self.validation),
            seed=seed,
            workdir=work,
        )

    def score(self, module: nn.Module) -> float:
        return accuracy(module, *self.test)


def _images(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) / 255 - 0.2860) / 0.3530)[:, None]


def accuracy(module: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    module.eval()
    with torch.no_grad():
        parts = [module(torch.from_numpy(images[i : i + BATCH])).argmax(1) for i in range(0, len(images), BATCH)]
    return 100 * float((torch.cat(parts).numpy() == labels).mean())


def trained(data: Fashion, seed: int, epochs: int, work: Path) -> nn.Module:
    """The original of a seed: trained once, kept in `work`."""
    path = work / f"original-{epochs}-{len(data.images)}-{seed}.pt"
    torch.manual_seed(seed)
    module = Cnn()
    if not path.exists():
        Recover(epochs=epochs, lr=3e-3, batch=128, weight_decay=1e-2, warmup=0.1).apply(module, data.context(seed, work))
        torch.save(module.state_dict(), path)
    module.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()
