"""Which tensors calibration looks at, and a copy of the model that gives them as outputs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

SMALL = 1024
"""Values of a constant that shape inference may want to read, such as the target of a Reshape."""

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that have integer kernels and do the work."""

CARRIERS = frozenset(
    {
        *("Add", "Sub", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "Pad", "Slice", "Split"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Resize", "BatchNormalization"),
        *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace"),
    }
)
"""Operators through which an integer region around a compute operator can go on."""


def observable_tensors(model: Any) -> tuple[str, ...]:
    """The float tensors of an `onnx.ModelProto` that some policy could quantize, in graph order.

    They are the non-constant inputs and outputs of `COMPUTE` and `CARRIERS` nodes of the main graph. A tensor whose
    type is not known (no shape inference for its operator) is left out unless a compute operator uses it.
    """
    import onnx

    types = {value.name: value.type.tensor_type.elem_type for value in _typed_values(model)}
    constant = {tensor.name for tensor in model.graph.initializer}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type not in COMPUTE | CARRIERS or node.domain not in ("", "ai.onnx"):
            continue
        for name in (*node.input, *node.output):
            known = types.get(name)
            if name and name not in constant and (known in floats or (known is None and node.op_type in COMPUTE)):
                found[name] = None
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.pop(node.output[0], None)
    return tuple(found)


def dimension_names(model: Any) -> dict[str, tuple[str, ...]]:
    """The named dimensions of every tensor whose shape is recorded; a fixed dimension is the empty name."""
    return {
        value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in _typed_values(model)
        if value.type.tensor_type.HasField("shape")
    }


def with_shapes(model: Any) -> Any:
    """The model, edited, with the types and shapes of inner tensors that shape inference knows."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    for field in ("value_info", "output"):
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(getattr(inferred.graph, field))
    return model


def shapes_for(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of inner tensors when the inputs have `shapes`, as far as shape inference knows them."""
    import onnx

    light = _without_weights(model)
    del light.graph.value_info[:]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in light.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    # What inference does not follow, such as a Reshape to a computed shape, the exporter may have recorded by names.
    sizes = dict(_named_sizes(model, shapes))
    recorded = {value.name: _shape(value, sizes) for value in _typed_values(model)}
    found = recorded | {
        value.name: shape for value in _typed_values(inferred) if (shape := _shape(value, {})) is not None
    }
    return {name: shape for name, shape in found.items() if shape is not None}


def _named_sizes(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int]]:
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            if dim.dim_param:
                yield dim.dim_param, size


def _shape(value: Any, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The shape that a type says, its named dimensions by `sizes`; None where one of them is not known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = [
        dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param)
        for dim in value.type.tensor_type.shape.dim
    ]
    return None if None in dims else tuple(size for size in dims if size is not None)


def _without_weights(model: Any) -> Any:
    """A copy in which large weights are inputs: shape inference needs their shapes only, and copies all it is given."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    light.graph.name = model.graph.name
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    return light


def save_exposed(model: Any, source: Path, target: Path, tensors: Collection[str], *, shapes: bool = False) -> None:
    """Write a copy of `model` to `target` whose outputs are `tensors` only.

    With `shapes` the outputs are their shapes (int64), named `<tensor>.shape`: small, whatever the tensors' sizes.
    External weights are copied from the folder of `source`, once; runtimes rightly refuse links.
    """
    import onnx

    # Numbers stay those of the whole model, which a runtime fuses as one; shapes need but the nodes behind them.
    nodes, read = _ancestors(model, tensors) if shapes else (model.graph.node, None)
    copy = onnx.ModelProto()
    for field in model.DESCRIPTOR.fields:
        if field.name != "graph" and (field.is_repeated or model.HasField(field.name)):
            value = getattr(model, field.name)
            getattr(copy, field.name).extend(value) if field.is_repeated else setattr(copy, field.name, value)
    copy.graph.name = model.graph.name
    copy.graph.node.extend(nodes)
    copy.graph.input.extend(model.graph.input)
    copy.graph.value_info.extend(model.graph.value_info)
    weights = model.graph.initializer
    copy.graph.initializer.extend(weights if read is None else (each for each in weights if each.name in read))
    for name in tensors:
        output = name
        if shapes:
            output = f"{name}.shape"
            copy.graph.node.append(onnx.helper.make_node("Shape", [name], [output]))
        # No type: the runtime infers it, and an input that is also an output needs no second declaration.
        copy.graph.output.append(onnx.ValueInfoProto(name=output))
    for tensor in copy.graph.initializer:
        for location in (entry.value for entry in tensor.external_data if entry.key == "location"):
            beside = target.parent / location
            if not beside.exists():
                beside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.parent / location, beside)
    target.write_bytes(copy.SerializeToString())


def _ancestors(model: Any, tensors: Collection[str]) -> tuple[list[Any], set[str]]:
    """The nodes on which `tensors` rest, in graph order, and every name that they read."""
    read = set(tensors)
    kept: list[Any] = []
    for node in reversed(model.graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(_reads(node))
    return kept[::-1], read


def _reads(node: Any) -> Iterator[str]:
    """What a node reads, its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (output.name for output in inner.output)
            for each in inner.node:
                yield from _reads(each)


def _typed_values(model: Any) -> Iterator[Any]:
    yield from model.graph.input
    yield from model.graph.value_info
    yield from model.graph.output
