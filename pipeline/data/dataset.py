"""A recipe's data set: batches that are checked as they stream by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from enginery.engines.base import check_feeds
from enginery.errors import DataError, InputError
from enginery.pipeline.data.batch import Batch, Reader
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.files import digest_json


class DataSet:
    """Checked batches of one data set. `name` says for messages what it is: `images eval.zip`."""

    def __init__(self, name: str, reader: Reader, layout: Layout) -> None:
        self.name = name
        self._reader = reader
        self._layout = layout

    def batches(self) -> Iterator[Batch]:
        """Stream the batches, opening the data anew.

        Raises:
            DataError: there is none, or one is not finite, or has another name, dtype, rank or dimension than
                declared. The message names the data, the batch, where it came from, and the input.
        """
        index = 0
        for index, batch in enumerate(self._reader.read(), start=1):
            self._check(batch, index)
            yield batch
        if index == 0:
            raise DataError(f"{self.name} gave no batch. {self._reader.when_empty}")

    def count(self) -> int | None:
        """How many batches there are, where that is known without reading them all; for progress alone."""
        return self._reader.count()

    def digest(self) -> str:
        """sha256 over all that the batches rest on: content of files, code, options, shapes. Reads no batch."""
        return digest_json(self.facts())

    def facts(self) -> dict[str, Any]:
        """What `digest` covers, for the provenance in a bundle; JSON-ready."""
        layout = self._layout
        shapes = {spec.name: [spec.dtype, *spec.shape] for spec in layout.inputs}
        dims = {name: [dim.min, dim.opt, dim.max] for name, dim in layout.dims.items()}
        return {**self._reader.facts(), "inputs": shapes, "dims": dims, "rows": layout.rows}

    def _check(self, batch: Batch, index: int) -> None:
        where = f"{self.name}, batch {index}" + (f" ({batch.origin})" if batch.origin else "")
        try:
            check_feeds(batch.inputs, self._layout.inputs, self._layout.dims)
        except InputError as error:
            raise DataError(f"{where}: {error}") from error
        for name, array in batch.inputs.items():
            _check_finite(array, f"{where}, input {name!r}")
        if batch.labels is not None and batch.labels.dtype.kind == "f":
            _check_finite(batch.labels, f"{where}, labels")


def _check_finite(array: np.ndarray[Any, Any], where: str) -> None:
    if array.size == 0:
        raise DataError(f"{where} is empty: shape {list(array.shape)}.")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{where} holds {int(bad.sum())} values that are not finite, the first ({array[first]}) at index "
            f"{list(first)}. Remove or repair the sample: ranges and comparisons made from it would mean nothing."
        )
