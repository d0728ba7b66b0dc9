"""timm's architectures with seeded random weights: they cost what trained ones cost. And random images for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from exports import randomize


def build(architecture: str) -> torch.nn.Module:
    import timm

    torch.manual_seed(0)
    return randomize(timm.create_model(architecture, pretrained=False))


def images(samples: int, seed: int, batch: int = 8, size: int = 224) -> Iterator[dict[str, np.ndarray]]:
    """Smooth noise, as photos are smooth: each image is 14 x 14 normals enlarged, plus a little fine noise."""
    generator = np.random.default_rng(seed)
    for _ in range(0, samples, batch):
        coarse = generator.standard_normal((batch, 3, 14, 14), np.float32)
        enlarged = coarse.repeat(size // 14, axis=2).repeat(size // 14, axis=3)
        yield {"x": enlarged + 0.1 * generator.standard_normal(enlarged.shape, np.float32)}
