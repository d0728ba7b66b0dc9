"""What tensorrt_rtx makes of an ONNX file: nothing is mocked, no GPU is needed."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import engine_models as models
import numpy as np
import onnx
import pytest

from enginery.engines import Artifact, BuildSpec, DimRange, TensorSpec, get_engine
from enginery.engines.cuda.driver import devices
from enginery.errors import EngineError

NO_GPU = pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")

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


def build_model(
    model: onnx.ModelProto, folder: Path, spec: BuildSpec = models.SPEC, name: str = "engine", **save: Any
) -> Artifact:
    """Build a model that is in memory, into `folder`/`name`."""
    source, target = folder / f"{name}-source", folder / name
    source.mkdir()
    target.mkdir()
    return get_engine("tensorrt-rtx").build(models.save(model, source, **save), target, spec)


def digest(artifact: Artifact) -> str:
    return hashlib.sha256(artifact.path.read_bytes()).hexdigest()


def convolution() -> tuple[onnx.ModelProto, BuildSpec]:
    """Three dynamic dimensions, whose symbols the builder orders by address when it may."""
    signature = "(float[n, 16, h, w] x) => (float[n, 32, a, b] y)"
    model = models.parse(
        "{ c = Conv<pads=[1,1,1,1]>(x, k)  r = Relu(c)  y = MaxPool<kernel_shape=[2,2]>(r) }", signature=signature
    )
    kernel = np.random.default_rng(0).standard_normal((32, 16, 3, 3)).astype(np.float32)
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("n", 16, "h", "w")),),
        (TensorSpec("y", "float32", ("n", 32, "a", "b")),),
        {"n": DimRange(1, 4, 8), "h": DimRange(8, 16, 32), "w": DimRange(8, 16, 32)},
    )
    return models.add(model, k=kernel), spec


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
