"""Speech-commands features, stored as the int8 inputs of MLPerf Tiny's quantized model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

SCALE, ZERO_POINT = 0.5847029, 83


def features(
    file: str, batch: int = 50, samples: int | None = None
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    with np.load(Path(__file__).parent / file) as archive:
        stored, labels = archive["X"][:samples], archive["Y"][:samples]
    real = (stored.astype(np.float32) - ZERO_POINT) * np.float32(SCALE)
    for start in range(0, len(labels), batch):
        yield {"features": real[start : start + batch]}, labels[start : start + batch]
