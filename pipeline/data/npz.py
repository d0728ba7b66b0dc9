"""Data from an .npz file, or a folder of them: arrays by input name, and `labels`.

Samples lie along an input's batch dimension and are read in pieces: memory holds one batch of an array whose samples
lie along the first axis, whatever the size of the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Arrays, TensorSpec
from enginery.errors import DataError
from enginery.pipeline.data.batch import Batch, Reader
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.recipe import Data
from enginery.pipeline.source.digest import tree_digests

LABELS = "labels"


def npz_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder in order of their names."""
    return [path] if path.is_file() else sorted(path.glob("*.npz"))


def npz_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every array of an .npz file but `labels`, by name, from the headers alone.

    Raises:
        DataError: it is no such file, or holds something else than plain arrays.
    """
    with _Archive(path) as archive:
        return {name: archive.shape(name) for name in archive.names if name != LABELS}


class NpzReader(Reader):
    """The files of a folder are read in order of their names; no batch spans two files."""

    def __init__(self, data: Data, folder: Path, layout: Layout) -> None:
        self._path = folder / (data.npz or "")
        self._layout = layout
        self._samples = data.samples
        if not self._path.exists():
            raise DataError(f"There is no data {self._path}. Paths are relative to the recipe.")

    def read(self) -> Iterator[Batch]:
        left = self._samples
        for path in npz_files(self._path):
            for batch in self._read_file(path):
                kept, rows = (batch, 0) if left is None else self._layout.first(batch, left)
                yield kept
                if left is not None:
                    left -= rows
                    if left <= 0:
                        return

    def count(self) -> int | None:
        sizes = [self._rows(path) for path in npz_files(self._path)]
        if any(size is None for size in sizes):
            return None
        batches, left = 0, self._samples
        for size in sizes:
            taken = (size or 0) if left is None else min(size or 0, left)
            batches += -(-taken // self._layout.rows)
            left = None if left is None else left - taken
        return batches

    def _rows(self, path: Path) -> int | None:
        """How many samples a file holds, from the header of one array; None where all samples share each array."""
        with _Archive(path) as archive:
            counted = (spec.name for spec in self._layout.inputs if self._layout.sample_axis(spec) == 0)
            name = next((name for name in counted if name in archive.members), None)
            return None if name is None else len(archive.rows(name))

    def facts(self) -> dict[str, Any]:
        return {"npz": self._path.name, "samples": self._samples, "files": tree_digests(self._path)}

    def _read_file(self, path: Path) -> Iterator[Batch]:
        with _Archive(path) as archive:
            specs = [spec for spec in self._layout.inputs if spec.name in archive.members]
            if missing := sorted({spec.name for spec in self._layout.inputs} - archive.members):
                raise DataError(
                    f"{path.name} has no array for the inputs {missing}; it has {sorted(archive.members)}. Name the "
                    "arrays after the model's inputs."
                )
            sources = {spec.name: self._source(archive, spec) for spec in specs}
            labels = archive.rows(LABELS) if LABELS in archive.members else None
            total = self._total(sources, path)
            per_label = total // len(labels) if labels is not None and len(labels) else 1
            for start in range(0, total, self._layout.rows):
                count = min(self._layout.rows, total - start)
                inputs: Arrays = {name: source.take(count) for name, source in sources.items()}
                taken = labels.take(-(-count // per_label)) if labels is not None else None
                yield Batch(inputs, taken, f"{path.name}, samples {start}-{start + count - 1}")

    def _source(self, archive: _Archive, spec: TensorSpec) -> _Rows | _Whole:
        axis = self._layout.sample_axis(spec)
        return archive.rows(spec.name) if axis == 0 else _Whole(archive.whole(spec.name), axis)

    def _total(self, sources: dict[str, _Rows | _Whole], path: Path) -> int:
        lengths = {name: len(source) for name, source in sources.items() if source.counts}
        if len(set(lengths.values())) > 1:
            raise DataError(f"The arrays of {path.name} hold different numbers of samples: {lengths}.")
        return next(iter(lengths.values()), self._layout.rows)


class _Whole:
    """An array held in memory: shared by all samples (`axis` None), or with its samples along another axis."""

    def __init__(self, array: npt.NDArray[Any], axis: int | None) -> None:
        self._array = array
        self._axis = axis
        self._start = 0
        self.counts = axis is not None

    def __len__(self) -> int:
        return 1 if self._axis is None else self._array.shape[self._axis]

    def take(self, count: int) -> npt.NDArray[Any]:
        if self._axis is None:
            return self._array
        self._start += count
        return self._array.take(range(self._start - count, self._start), self._axis)


class _Rows:
    """A member of an archive, read from its start in pieces along the first axis."""

    counts = True

    def __init__(self, stream: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
        self._stream = stream
        self._shape = shape
        self._dtype = dtype
        self._name = name

    def __len__(self) -> int:
        return self._shape[0]

    def take(self, count: int) -> npt.NDArray[Any]:
        shape = (count, *self._shape[1:])
        size = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        raw = self._stream.read(size)
        if len(raw) != size:
            raise DataError(f"The array {self._name} ends early: {len(raw)} of {size} bytes.")
        return np.frombuffer(bytearray(raw), self._dtype).reshape(shape)


class _Archive:
    """An open .npz file. Pickled objects are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._zip = self._stack.enter_context(zipfile.ZipFile(self._path))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self._path} is not an .npz file: {error}.") from error
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")]
        self.members = set(self.names)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def shape(self, name: str) -> tuple[str, tuple[int, ...]]:
        with self._zip.open(f"{name}.npy") as stream:
            shape, _, dtype = self._header(stream, name)
        return dtype.name, shape

    def rows(self, name: str) -> _Rows:
        stream = self._stack.enter_context(self._zip.open(f"{name}.npy"))
        shape, fortran, dtype = self._header(stream, name)
        if fortran and len(shape) > 1:
            raise DataError(f"The array {self._where(name)} is in Fortran order; save np.ascontiguousarray of it.")
        if not shape:
            raise DataError(f"The array {self._where(name)} is a scalar; its samples must lie along the first axis.")
        return _Rows(stream, shape, dtype, self._where(name))

    def whole(self, name: str) -> npt.NDArray[Any]:
        with self._zip.open(f"{name}.npy") as stream:
            try:
                return np.lib.format.read_array(stream, allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise DataError(f"The array {self._where(name)} cannot be read: {error}.") from error

    def _header(self, stream: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except (ValueError, EOFError) as error:
            raise DataError(f"The array {self._where(name)} cannot be read: {error}.") from error
        if dtype.hasobject:
            raise DataError(f"The array {self._where(name)} holds Python objects; only plain arrays are read.")
        return shape, fortran, dtype

    def _where(self, name: str) -> str:
        return f"{name!r} of {self._path.name}"
