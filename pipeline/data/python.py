"""Data from a Python callable: `file.py:function`, called anew for every pass."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from enginery.errors import DataError
from enginery.pipeline.data.batch import Batch, Reader
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.recipe import Data
from enginery.pipeline.source.callables import Reference, call, guarded, import_callable
from enginery.pipeline.source.digest import code_facts, option_files


class PythonReader(Reader):
    """The callable gives `{input: array}` or `({input: array}, labels)`; its batches are taken as they are.

    What it returns may have a length, as a list or a torch DataLoader has: progress then says how much is left.
    """

    when_empty = "A callable must return a fresh iterator at every call."

    def __init__(self, data: Data, folder: Path, layout: Layout) -> None:
        assert data.python is not None
        self._reference = Reference.parse(data.python, folder)
        self._data = data
        self._layout = layout
        self._count: int | None = None

    def read(self) -> Iterator[Batch]:
        function = import_callable(self._reference, DataError)
        items = call(function, self._reference, self._data.options, DataError)
        if isinstance(items, Mapping) or not isinstance(items, Iterable):
            raise DataError(
                f"{self._reference.text!r} returned a {type(items).__name__}; expected an iterable of batches, each "
                "{input: array} or ({input: array}, labels)."
            )
        self._count = _length(items)
        left = self._data.samples
        with guarded(self._reference, DataError, "starting to read it"):
            iterator = iter(cast("Iterable[object]", items))
        while left is None or left > 0:
            with guarded(self._reference, DataError, "reading a batch"):
                item = next(iterator, None)
            if item is None:
                return
            batch = _batch(item, self._reference.text)
            if left is not None:
                batch, rows = self._layout.first(batch, left)
                if left == self._data.samples and rows and self._count is not None:
                    self._count = min(-(-left // rows), self._count)
                left -= rows
            yield batch

    def count(self) -> int | None:
        return self._count

    def facts(self) -> dict[str, Any]:
        """Code, options, and the content of files and folders that an option names.

        The Python version counts too: a callable may read what comes with Python itself.
        """
        files = option_files(self._data.options, self._reference.folder)
        return {
            "python": self._data.python,
            "options": self._data.options,
            "samples": self._data.samples,
            "files": files,
            "version": sys.version.split()[0],
            **code_facts(self._reference),
        }


def _length(items: object) -> int | None:
    """None for an iterator, and for what has a length in name only, as a DataLoader over a stream."""
    with suppress(Exception):
        return len(items) if isinstance(items, Sized) else None
    return None


def _batch(item: object, where: str) -> Batch:
    inputs, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"{where!r} yielded a {type(item).__name__}; expected {{input: array}} or ({{input: array}}, labels)."
        )
    arrays = {str(name): np.asarray(array) for name, array in cast("Mapping[object, Any]", inputs).items()}
    return Batch(arrays, None if labels is None else np.asarray(labels))
