"""CIFAR-10 test images, kept as JPEG bytes in one .npz."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def images(
    file: str, batch: int = 50, samples: int | None = None
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    with np.load(Path(__file__).parent / file) as archive:
        jpeg, offsets, labels = archive["jpeg"], archive["offsets"], archive["Y"].astype(np.int64)
    labels = labels[:samples]
    for start in range(0, len(labels), batch):
        chosen = range(start, min(start + batch, len(labels)))
        pixels = [np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()))) for i in chosen]
        image = np.stack(pixels).astype(np.float32).transpose(0, 3, 1, 2) / 255
        yield {"image": ((image - MEAN) / STD).astype(np.float32)}, labels[chosen]
