"""Types and shapes of all tensors, kept current between passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from enginery.errors import InvalidModelError
from enginery.passes.graph.ir import all_graphs, export_model
from enginery.passes.graph.weights import DerivedValues, is_sparse, nbytes, numpy_dtype, peek, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, TensorProto

Dim = int | str | None

_NEEDED = 4096  # shape inference reads small constants only: axes, pads, target shapes


def infer_shapes(graph: gs.Graph) -> None:
    """Fill in dtype and shape of every tensor that ONNX's shape inference knows, in bodies of If, Loop and Scan too.

    What a tensor already says is kept; inferred facts are added. Weights are not read. The bodies of local functions
    have no types of their own: each call may give them others.

    Raises:
        InvalidModelError: shape inference found a contradiction.
    """
    from enginery.passes.graph.propagate import propagate_dims

    model = export_without_weights(graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidModelError(f"Shape inference found a contradiction in the graph: {error}") from error
    for scope, proto in _scopes(graph, inferred.graph):
        known = {value.name: value.type.tensor_type for value in (*proto.value_info, *proto.output)}
        for node in scope.nodes:
            for tensor in node.outputs:
                if tensor.name in known and isinstance(tensor, gs.Variable):
                    _learn(tensor, known[tensor.name])
        propagate_dims(scope)


def _scopes(graph: gs.Graph, proto: GraphProto) -> Iterator[tuple[gs.Graph, GraphProto]]:
    """A graph and its subgraphs, outer ones first, each with the form that it was exported to."""
    yield graph, proto
    for node, exported in zip(graph.nodes, proto.node, strict=True):
        for attribute in exported.attribute:
            inner = node.attrs.get(attribute.name)
            if isinstance(inner, gs.Graph):
                yield from _scopes(inner, attribute.g)


def export_without_weights(graph: gs.Graph) -> onnx.ModelProto:
    """The model with every large constant as a reference to data that is not there: enough for its structure."""
    constants = [
        constant
        for scope in all_graphs(graph)
        for constant in scope.tensors().values()
        if isinstance(constant, gs.Constant) and not is_sparse(constant)
        if nbytes(constant) > _NEEDED or isinstance(stored(constant), DerivedValues)
    ]
    kept = [stored(constant) for constant in constants]
    try:
        for constant in constants:
            constant.values = LazyValues(_stub(constant)) if nbytes(constant) > _NEEDED else peek(constant)
        return export_model(graph)
    finally:
        for constant, values in zip(constants, kept, strict=True):
            constant.values = values


def _stub(constant: gs.Constant) -> TensorProto:
    proto = onnx.TensorProto(
        name=constant.name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(constant)),
        dims=list(constant.shape),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    proto.external_data.add(key="location", value="absent")
    return proto


def _learn(tensor: gs.Variable, fact: Any) -> None:
    if tensor.dtype is None and fact.elem_type:
        tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(fact.elem_type)
    if fact.HasField("shape"):
        inferred = [_dim(dim) for dim in fact.shape.dim]
        if tensor.shape is None or len(tensor.shape) != len(inferred):
            tensor.shape = inferred
        else:
            tensor.shape = [old if _known(old) else new for old, new in zip(tensor.shape, inferred, strict=True)]


def _known(dim: Dim) -> bool:
    return isinstance(dim, int) or bool(dim)


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    # Inference invents symbols anew on every run; keeping one would later claim that two sizes are equal.
    return None if not dim.dim_param or dim.dim_param.startswith("unk__") else str(dim.dim_param)


def dims_of(tensor: gs.Tensor) -> tuple[Dim, ...] | None:
    """The shape with None for unknown dimensions, or None when not even the rank is known."""
    if tensor.shape is None:
        return None
    return tuple(int(dim) if isinstance(dim, int) else (dim or None) for dim in tensor.shape)


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape when every dimension is a number."""
    dims = dims_of(tensor)
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim for dim in dims if isinstance(dim, int))
