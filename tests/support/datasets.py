"""Opens small data sets for declared inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.pipeline.data import Batch, DataSet, open_data
from enginery.pipeline.recipe import Data, Dim, Tensor

VECTOR = {"x": Tensor(dtype="float32", shape=("batch", 3))}
BATCH = {"batch": Dim(min=1, opt=4, max=8)}


def opened(
    folder: Path, inputs: dict[str, Tensor] | None = None, dims: dict[str, Dim] | None = None, **data: Any
) -> DataSet:
    return open_data(Data(**data), folder, inputs or VECTOR, BATCH if dims is None else dims)


def batches(folder: Path, inputs: dict[str, Tensor] | None = None, **data: Any) -> list[Batch]:
    """All batches; their number is as it was known before."""
    return counted(opened(folder, inputs, **data))


def counted(data: DataSet) -> list[Batch]:
    got = list(data.batches())
    assert data.count() in (None, len(got))
    return got
