"""Data from text: one sample a line, or columns of a tab-separated table, with a `tokenizer.json`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from enginery.engines.base import Arrays, DimRange, TensorSpec
from enginery.errors import DataError, MissingDependencyError, RecipeError
from enginery.pipeline.data.batch import Batch, Reader
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.recipe import Data, TextPreprocess
from enginery.pipeline.source.digest import file_digest

FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""The model's inputs that a tokenizer can fill, and the tokenizer's name for them."""

Row = tuple[tuple[str, ...], float | None]


class TextReader(Reader):
    """Batches of tokenized texts, padded to the longest of the batch.

    With several columns the texts of one row follow each other: rows 2i and 2i+1 of the batch are a pair, and there is
    one label for both. `samples` and `batch` then count rows of the table.
    """

    def __init__(self, data: Data, folder: Path, layout: Layout) -> None:
        assert data.tokenize is not None
        self._data = data
        self._how = data.tokenize
        self._layout = layout
        self._path = folder / (data.text or "")
        if not self._path.is_file():
            raise DataError(f"There is no text file {self._path}. Paths are relative to the recipe.")
        self._tokenizer_file = tokenizer_file(self._how.tokenizer, folder)
        unknown = [spec.name for spec in layout.inputs if spec.name not in FIELDS]
        if unknown:
            raise RecipeError(f"A tokenizer cannot fill the inputs {unknown}; it fills {', '.join(FIELDS)}.")

    def read(self) -> Iterator[Batch]:
        tokenizer = open_tokenizer(self._tokenizer_file, self._how, self._layout.inputs, self._layout.dims)
        size = self._rows_per_batch
        rows = islice(self._rows(), self._data.samples)
        start = 1
        while group := list(islice(rows, size)):
            inputs = encode(tokenizer, [text for row in group for text in row[0]], self._layout.inputs)
            labels = [label for _, label in group if label is not None]
            origin = f"rows {start}-{start + len(group) - 1}"
            yield Batch(inputs, np.array(labels, np.float64) if labels else None, origin)
            start += len(group)

    @property
    def _rows_per_batch(self) -> int:
        return self._data.batch or max(1, self._layout.rows // max(1, len(self._how.columns)))

    def count(self) -> int:
        return -(-sum(1 for _ in islice(self._rows(), self._data.samples)) // self._rows_per_batch)

    def facts(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "text": self._path.name,
            "file": file_digest(self._path),
            "tokenizer": file_digest(self._tokenizer_file),
            "preprocess": self._how.model_dump(mode="json", exclude={"tokenizer"}),
            "samples": self._data.samples,
            "batch": self._data.batch,
            "tokenizers": version("tokenizers"),
        }

    def _rows(self) -> Iterator[Row]:
        with self._path.open(encoding="utf-8") as stream:
            lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(stream, 1))
            if not self._how.columns:
                yield from (((line,), None) for _, line in lines if line.strip())
                return
            yield from _table(lines, self._how, self._path.name)


def open_tokenizer(path: Path, how: TextPreprocess, inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> Any:
    """Open a `tokenizer.json` so that it cuts and pads to what the inputs take.

    Raises:
        MissingDependencyError: the package tokenizers is not installed.
        DataError: the file is no tokenizer.
    """
    if importlib.util.find_spec("tokenizers") is None:
        raise MissingDependencyError("Text data needs the package tokenizers: pip install 'enginery[hf]'.")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(f"{path} is no tokenizer: {error}") from error
    lengths = [spec.shape[1] for spec in inputs if len(spec.shape) > 1]
    fixed = next((size for size in lengths if isinstance(size, int)), None)
    name = next((size for size in lengths if isinstance(size, str)), None)
    longest = fixed or (dims[name].max if name is not None else None)
    longest = min(filter(None, (longest, how.max_length)), default=None)
    padding = tokenizer.padding or {}
    pad = {key: padding[key] for key in ("pad_id", "pad_token", "pad_type_id") if key in padding}
    if longest is not None:
        tokenizer.enable_truncation(longest)
    else:
        tokenizer.no_truncation()
    tokenizer.enable_padding(length=fixed, **pad)
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], inputs: Sequence[TensorSpec]) -> Arrays:
    """Tokenize texts into one batch, padded to the longest."""
    encoded = tokenizer.encode_batch(list(texts))
    return {spec.name: np.array([getattr(text, FIELDS[spec.name]) for text in encoded], spec.dtype) for spec in inputs}


def tokenizer_file(text: str, folder: Path) -> Path:
    """The file that `tokenize.tokenizer` names: a path relative to the recipe, or `package:path/inside`.

    Raises:
        MissingDependencyError: the package is not installed.
        DataError: there is no such file.
    """
    package, _, inside = text.partition(":")
    path = folder / text
    if inside:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError(f"The tokenizer is in the package {package!r}, which is not installed.")
        path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise DataError(f"There is no tokenizer file {path}. Paths are relative to the recipe.")
    return path


def _table(lines: Iterator[tuple[int, str]], how: TextPreprocess, name: str) -> Iterator[Row]:
    """The chosen columns of a tab-separated table: by name from its first line, or by number where it has none."""
    wanted = [*how.columns, *([how.label] if how.label is not None else [])]
    if all(column.isdigit() for column in wanted):
        places = [int(column) for column in wanted]
    else:
        header = next(lines, (1, ""))[1].split("\t")
        if missing := [column for column in wanted if column not in header]:
            raise DataError(
                f"{name} has no columns {missing}; its first line has {header}. Give numbers, from 0, where a table "
                "has no header."
            )
        places = [header.index(column) for column in wanted]
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) <= max(places):
            raise DataError(f"{name}, line {number}: {len(cells)} columns; column {max(places)} was expected.")
        texts = tuple(cells[place] for place in places[: len(how.columns)])
        yield texts, None if how.label is None else _number(cells[places[-1]], name, number)


def _number(text: str, name: str, line: int) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{name}, line {line}: the label {text!r} is no number.") from error
