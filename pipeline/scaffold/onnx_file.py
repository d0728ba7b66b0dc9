"""What an ONNX file says about itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginery.errors import InvalidModelError
from enginery.pipeline.scaffold.draft import Draft, Input, relative


def draft_onnx(path: Path, folder: Path, inputs: Sequence[Input]) -> Draft:
    return Draft({"onnx": relative(path, folder)}, tuple(inputs) or _onnx_inputs(path))


def _onnx_inputs(path: Path) -> tuple[Input, ...]:
    """The graph's inputs; initializers that older exporters list among them are left out."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InvalidModelError(f"{path} is not an ONNX file: {error}") from error
    initializers = {tensor.name for tensor in graph.initializer}
    return tuple(
        Input(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            _onnx_shape(value.name, value.type.tensor_type.shape.dim),
        )
        for value in graph.input
        if value.name not in initializers
    )


def _onnx_shape(name: str, dims: Sequence[Any]) -> tuple[int | str, ...]:
    shape: list[int | str] = []
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(dim.dim_value)
        else:
            unnamed = "batch" if axis == 0 else f"{name}_{axis}"
            shape.append(re.sub(r"\W+", "_", dim.dim_param).strip("_") or re.sub(r"\W+", "_", unnamed))
    return tuple(shape)
