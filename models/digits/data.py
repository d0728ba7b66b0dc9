"""Handwritten digits that ship with scikit-learn: 1,797 images of 8x8 (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

EVERY = 5
"""Every fifth image is held out for evaluation."""


def digits(split: Literal["train", "evaluation"]) -> tuple[Images, Labels]:
    """Images in 0..1, float32 [n, 1, 8, 8], and labels 0..9, int64 [n]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    held_out = np.arange(len(labels)) % EVERY == 0
    chosen = held_out if split == "evaluation" else ~held_out
    return (images[chosen] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8), labels[chosen].astype(np.int64)


def batches(
    split: Literal["train", "evaluation"], batch: int = 32, samples: int | None = None
) -> list[tuple[dict[str, Images], Labels]]:
    """Batches of `image` with their labels, in the data set's order. A list has a length, for progress."""
    images, labels = digits(split)
    images, labels = images[:samples], labels[:samples]
    starts = range(0, len(labels), batch)
    return [({"image": images[start : start + batch]}, labels[start : start + batch]) for start in starts]
