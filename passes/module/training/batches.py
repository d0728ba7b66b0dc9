"""Shuffled training batches in bounded memory.

Samples are shuffled inside windows of `WINDOW_BYTES`; a data set that fits into one window is shuffled completely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.errors import DataError
from enginery.passes.base import Feeds

Labels = npt.NDArray[Any] | None
Pair = tuple[dict[str, npt.NDArray[Any]], Labels]
Open = Callable[[], Iterable[tuple[Feeds, Labels]]]

WINDOW_BYTES = 512 << 20


def epoch(batches: Open, *, batch: int | None, seed: int, window_bytes: int = WINDOW_BYTES) -> Iterator[Pair]:
    """One epoch of batches in an order fixed by `seed`.

    With `batch`, samples are regrouped and an incomplete last batch is dropped (batch normalization cannot train on a
    single sample), unless it is the only one. Without, the data's own batches come in shuffled order.

    Raises:
        DataError: the data is empty, or `batch` is asked of samples whose shapes differ.
    """
    random = np.random.default_rng(seed)
    if batch is None:
        produced = _shuffled(batches, random, window_bytes)
    else:
        produced = _regrouped(batches, batch, random, window_bytes)
    empty = True
    for pair in produced:
        empty = False
        yield pair
    if empty:
        raise DataError("the training data is empty; expected at least one batch")


def count(batches: Open, *, batch: int | None) -> int:
    """Batches in one epoch. Reads the data once."""
    sizes = [_size(feeds) for feeds, _ in batches()]
    if batch is None:
        return len(sizes)
    return max(sum(sizes) // batch, 1)


def _size(feeds: Feeds) -> int:
    return next(iter(feeds.values())).shape[0]


def _bytes(pair: Pair) -> int:
    return sum(array.nbytes for array in pair[0].values())


def _windows(batches: Open, window_bytes: int) -> Iterator[list[Pair]]:
    window: list[Pair] = []
    held = 0
    for feeds, labels in batches():
        pair: Pair = (dict(feeds), labels)
        window.append(pair)
        held += _bytes(pair)
        if held >= window_bytes:
            yield window
            window, held = [], 0
    if window:
        yield window


def _shuffled(batches: Open, random: np.random.Generator, window_bytes: int) -> Iterator[Pair]:
    for window in _windows(batches, window_bytes):
        for index in random.permutation(len(window)):
            yield window[index]


def _regrouped(batches: Open, batch: int, random: np.random.Generator, window_bytes: int) -> Iterator[Pair]:
    rest: Pair | None = None
    emitted = False
    for window in _windows(batches, window_bytes):
        feeds, labels = _join([rest, *window] if rest is not None else window)
        order = random.permutation(_size(feeds))
        full = len(order) // batch * batch
        for start in range(0, full, batch):
            emitted = True
            yield _take(feeds, labels, order[start : start + batch])
        rest = _take(feeds, labels, order[full:]) if full < len(order) else None
    if rest is not None and not emitted:
        yield rest


def _take(feeds: dict[str, npt.NDArray[Any]], labels: Labels, index: npt.NDArray[Any]) -> Pair:
    return {name: array[index] for name, array in feeds.items()}, None if labels is None else labels[index]


def _join(window: list[Pair]) -> Pair:
    feeds: dict[str, npt.NDArray[Any]] = {}
    for name in window[0][0]:
        arrays = [pair[0][name] for pair in window]
        if len({array.shape[1:] for array in arrays}) > 1:
            shapes = sorted({array.shape[1:] for array in arrays})[:4]
            raise DataError(
                f"input {name} has samples of different shapes {shapes}; they cannot be regrouped into batches: "
                "leave `batch` out, so that batches come as the data gives them"
            )
        feeds[name] = np.concatenate(arrays)
    labels = [pair[1] for pair in window if pair[1] is not None]
    if len(labels) < len(window):
        return feeds, None
    joined = np.concatenate(labels)
    if len(joined) != _size(feeds):
        raise DataError(
            f"{_size(feeds)} samples came with {len(joined)} labels; they cannot be regrouped into batches: "
            "leave `batch` out, so that batches come as the data gives them"
        )
    return feeds, joined
