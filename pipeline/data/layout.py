"""How the samples of a batch lie in a model's inputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from enginery.engines.base import Arrays, DimRange, TensorSpec
from enginery.errors import DataError
from enginery.pipeline.data.batch import Batch
from enginery.pipeline.recipe import Data, Dim, Tensor


@dataclass(frozen=True)
class Layout:
    """The declared inputs, the ranges of their dimensions, and the dimension that counts samples.

    `batch_dim` is the first dimension of the first input that has any, where it is a name; None where it is fixed.
    `rows` is the number of rows in a full batch.
    """

    inputs: tuple[TensorSpec, ...]
    dims: Mapping[str, DimRange]
    batch_dim: str | None
    rows: int

    @classmethod
    def of(
        cls, data: Data, inputs: Mapping[str, Tensor], dims: Mapping[str, Dim | DimRange], *, served: bool = True
    ) -> Layout:
        """The layout that a recipe declares; `data.batch` overrides the batch dimension's `opt`.

        Batches that are not `served` to an engine, those of a training, may be of any size.
        """
        specs = tuple(TensorSpec(name, tensor.dtype, tensor.shape) for name, tensor in inputs.items())
        ranges = {name: DimRange(dim.min, dim.opt, dim.max) for name, dim in dims.items()}
        first = next((spec.shape[0] for spec in specs if spec.shape), 1)
        rows = data.batch or (ranges[first].opt if isinstance(first, str) else first)
        if isinstance(first, str) and not served:
            ranges[first] = DimRange(1, rows, sys.maxsize)
        return cls(specs, ranges, first if isinstance(first, str) else None, rows)

    def sample_axis(self, spec: TensorSpec) -> int | None:
        """The axis of an input along which samples lie, or None where all samples share the whole array."""
        if self.batch_dim is not None:
            return spec.shape.index(self.batch_dim) if self.batch_dim in spec.shape else None
        return 0 if spec.shape else None

    def only_input(self, name: str | None) -> TensorSpec:
        """The input that a reader of one input fills.

        Raises:
            DataError: several inputs are declared and none is named, or there is no such input.
        """
        names = [spec.name for spec in self.inputs]
        if name is None and len(names) > 1:
            raise DataError(f"The model has the inputs {names}; say which one the images fill: `input: NAME`.")
        found = next((spec for spec in self.inputs if name in (None, spec.name)), None)
        if found is None:
            raise DataError(f"`input` names {name!r}; the model's inputs are {names}.")
        return found

    def first(self, batch: Batch, limit: int) -> tuple[Batch, int]:
        """Cut a batch to its first `limit` samples.

        Returns:
            The batch, and the number of samples in it. Labels of which there is one for every k samples are cut
            at the same place.
        """
        axes = {spec.name: self.sample_axis(spec) for spec in self.inputs}
        sizes = [
            array.shape[axis]
            for name, array in batch.inputs.items()
            if (axis := axes.get(name)) is not None and axis < array.ndim
        ]
        rows = max(sizes, default=1)
        if rows <= limit or self.batch_dim is None:
            return batch, rows
        inputs: Arrays = {}
        for name, array in batch.inputs.items():
            axis = axes.get(name)
            inputs[name] = array if axis is None else array.take(range(limit), axis)
        labels = batch.labels
        if labels is not None and labels.ndim:
            labels = labels[: -(-len(labels) * limit // rows)]
        return Batch(inputs, labels, batch.origin), limit
