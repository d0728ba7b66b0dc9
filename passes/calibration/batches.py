"""Checks calibration batches before a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from enginery.errors import DataError
from enginery.passes.base import Arrays, Feeds

Batches = Callable[[], Iterable[Feeds]]
"""Opens the data anew."""

KEPT_BYTES = 256 << 20
"""Batches that take less than this are read once."""


def kept(batches: Batches, most: int, budget: int = KEPT_BYTES) -> Batches:
    """The first `most` batches, read once where they take `budget` bytes or less: opening data may cost seconds."""
    found: list[Feeds] = []
    size = 0
    for feeds in islice(batches(), most):
        size += sum(array.nbytes for array in feeds.values())
        if size > budget:
            return lambda: islice(batches(), most)
        found.append(feeds)
    return lambda: iter(found)


@dataclass(frozen=True)
class BatchCheck:
    """What a batch must look like.

    `inputs` holds the names of the model's inputs; `input_dims` their declared shapes, dynamic dimensions by name;
    `dims` the (min, opt, max) of those names.
    """

    inputs: tuple[str, ...]
    input_dims: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict[str, tuple[int | str, ...]])
    dims: Mapping[str, tuple[int, int, int]] = field(default_factory=dict[str, tuple[int, int, int]])

    def __call__(self, feeds: Feeds, index: int) -> None:
        """Raise DataError, naming batch and input, unless the batch is complete, finite and of a declared shape."""
        if set(feeds) != set(self.inputs):
            raise DataError(f"Batch {index} has inputs {sorted(feeds)}; the model expects {sorted(self.inputs)}.")
        for name, array in feeds.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"Batch {index}, input {name!r} holds NaN or infinity. Clean the calibration data.")
            expected = self.input_dims.get(name)
            if expected is not None:
                self._check_shape(name, array.shape, expected, index)

    def _check_shape(self, name: str, shape: tuple[int, ...], expected: tuple[int | str, ...], index: int) -> None:
        where = f"Batch {index}, input {name!r} has shape {list(shape)}"
        if len(shape) != len(expected):
            raise DataError(f"{where}; expected {list(expected)}.")
        for size, dim in zip(shape, expected, strict=True):
            if isinstance(dim, int) and size != dim:
                raise DataError(f"{where}; expected {list(expected)}.")
            if isinstance(dim, str) and dim in self.dims:
                low, _, high = self.dims[dim]
                if not low <= size <= high:
                    raise DataError(
                        f"{where}: dimension {dim!r} is {size}, declared {low} to {high}. "
                        "Calibrate on shapes that the engine will see, or change `dims` in the recipe."
                    )


def random_batches(
    input_dims: Mapping[str, tuple[int | str, ...]],
    dtypes: Mapping[str, str],
    dims: Mapping[str, tuple[int, int, int]],
    *,
    count: int = 4,
    seed: int = 0,
) -> Batches:
    """Random batches at the optimal shape, for smoke tests only: pass `random=True` to `collect` with them.

    Floats are standard normal; integers and booleans are 0 or 1, which suits masks and stays inside any vocabulary.
    """

    def generate() -> Iterable[Feeds]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            feeds: Arrays = {}
            for name, shape in input_dims.items():
                sizes = [dim if isinstance(dim, int) else dims[dim][1] for dim in shape]
                dtype = np.dtype(dtypes[name])
                values = rng.standard_normal(sizes) if dtype.kind == "f" else rng.integers(0, 2, sizes)
                feeds[name] = values.astype(dtype)
            yield feeds

    return generate
