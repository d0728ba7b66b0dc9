"""Opens the data that a recipe declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enginery.engines.base import DimRange
from enginery.errors import RecipeError
from enginery.pipeline.data.batch import Reader
from enginery.pipeline.data.dataset import DataSet
from enginery.pipeline.data.layout import Layout
from enginery.pipeline.recipe import Data, Dim, Tensor


def open_data(
    data: Data,
    folder: Path,
    inputs: Mapping[str, Tensor],
    dims: Mapping[str, Dim | DimRange],
    *,
    served: bool = True,
) -> DataSet:
    """Open a data set for the declared inputs. Nothing is read yet but what the check of its existence needs.

    Batches that no engine is served, those of a training, need not keep to the range of the batch dimension.

    Raises:
        DataError: the data is absent.
        RecipeError: an option does not fit the kind of data.
    """
    layout = Layout.of(data, inputs, dims, served=served)
    place = getattr(data, data.kind)
    name = f"{data.kind} {place if data.kind == 'python' else Path(place).name}"
    return DataSet(name, _reader(data, folder, layout), layout)


def _reader(data: Data, folder: Path, layout: Layout) -> Reader:
    if data.options and data.kind != "python":
        raise RecipeError(f"`options` are a Python callable's arguments; `{data.kind}` takes none: {data.options}.")
    if data.kind == "images":
        from enginery.pipeline.data.images import ImageReader

        return ImageReader(data, folder, layout)
    if data.kind == "text":
        from enginery.pipeline.data.text import TextReader

        return TextReader(data, folder, layout)
    if data.kind == "npz":
        from enginery.pipeline.data.npz import NpzReader

        return NpzReader(data, folder, layout)
    if data.batch is not None:
        raise RecipeError("`batch` has no effect on a Python callable, which chooses itself. Use its `options`.")
    from enginery.pipeline.data.python import PythonReader

    return PythonReader(data, folder, layout)
