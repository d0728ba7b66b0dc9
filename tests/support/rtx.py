"""What tensorrt_rtx makes of an ONNX file: nothing is mocked, no GPU is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from enginery.engines import BuildSpec, DimRange, TensorSpec, get_engine
from enginery.errors import EngineError

SIZES = DimRange(1, 4, 8)
"""The range of every dynamic dimension, unless a test says another."""


def spec_of(path: Path, dims: Mapping[str, DimRange] | None = None) -> BuildSpec:
    """The build spec that an ONNX file's own inputs and outputs suggest."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_spec(value) for value in graph.input if value.name not in constants)
    names = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    ranges = {name: (dims or {}).get(name, SIZES) for name in names}
    return BuildSpec(inputs, tuple(map(_spec, graph.output)), ranges)


def build(path: Path, dims: Mapping[str, DimRange] | None = None) -> dict[str, int] | str:
    """The heavy kernels by kind, or why TensorRT-RTX refuses the model."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = get_engine("tensorrt-rtx").build(path, Path(folder), spec_of(path, dims))
        except EngineError as error:
            return str(error)
    heavy: dict[str, int] = artifact.facts["kernels"]["heavy"]
    return heavy


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
