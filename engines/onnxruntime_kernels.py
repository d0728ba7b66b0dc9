"""Which kernels ONNX Runtime runs: read from the optimized graph that the runtime itself wrote, not guessed.

The runtime stores no tensor types in that graph, so they are followed from the inputs and initializers through each
node. That needs no list of integer operators: a node runs on integers when a quantized tensor goes into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from enginery.engines.kernels import Kernel, Kind
from enginery.engines.onnx_file.wire import Attribute, Graph, Message, Model, Node, Tensor, Type, Value, open_model

_QUANTIZED: Final = {2: "uint8", 3: "int8", 21: "uint4", 22: "int4", 25: "uint2", 26: "int2"}
_FLOAT: Final = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_INT32, _INT64, _BOOL, _FLOAT32 = 6, 7, 9, 1

_WEIGHT_ONLY: Final = {"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"}
_CONVERT: Final = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_HEAVY: Final = ("Conv", "MatMul", "Gemm", "Attention", "LSTM", "GRU", "RNN", "Einsum")
_INT64_RESULTS: Final = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}
_BOOL_RESULTS: Final = {
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
    "Not",
    "And",
    "Or",
    "IsNaN",
    "IsInf",
}
_FLOAT_RESULTS: Final = {"DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "GatherBlockQuantized"}


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The kernels of an optimized ONNX file, in order, those of subgraphs after the node that holds them."""
    with open_model(path) as model:
        graph = model.message(Model.GRAPH)
        kernels: list[Kernel] = []
        if graph is not None:
            _read_graph(graph, {}, kernels)
        return tuple(kernels)


def _read_graph(graph: Message, outer: Mapping[str, int], kernels: list[Kernel]) -> None:
    types = dict(outer)
    for value in graph.messages(Graph.INPUTS):
        types[value.text(Value.NAME)] = _value_type(value)
    for tensor in graph.messages(Graph.INITIALIZERS):
        types[tensor.text(Tensor.NAME)] = tensor.integer(Tensor.DATA_TYPE)
    for node in graph.messages(Graph.NODES):
        inputs, outputs, op = node.texts(Node.INPUTS), node.texts(Node.OUTPUTS), node.text(Node.OP_TYPE)
        given = [types.get(name, 0) for name in inputs]
        attributes = {attribute.text(Attribute.NAME): attribute for attribute in node.messages(Node.ATTRIBUTES)}
        result = _result_type(op, given, attributes)
        types.update(dict.fromkeys(outputs, result))
        name = node.text(Node.NAME) or (outputs[0] if outputs else "")
        kernels.append(Kernel(name, op, _kind(op, given), heavy=any(word in op for word in _HEAVY)))
        for attribute in attributes.values():
            for inner in attribute.messages(Attribute.GRAPH):
                _read_graph(inner, types, kernels)


def _kind(op: str, given: list[int]) -> Kind:
    if op in _CONVERT:
        return "quantize"
    if op in _WEIGHT_ONLY:
        return "weight-only"
    if op == "DynamicQuantizeMatMul" or any(kind in _QUANTIZED for kind in given):
        return "integer"
    return "float" if any(kind in _FLOAT for kind in given) else "other"


def _result_type(op: str, given: list[int], attributes: Mapping[str, Message]) -> int:
    if op in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return given[2] if len(given) > 2 and given[2] else _number(attributes, "output_dtype") or 2
    if op in ("MatMulInteger", "ConvInteger"):
        return _INT32
    if op in _FLOAT_RESULTS:
        return _FLOAT32
    if op in _INT64_RESULTS:
        return _INT64
    if op in _BOOL_RESULTS:
        return _BOOL
    if op == "Cast":
        return _number(attributes, "to")
    if op in ("Constant", "ConstantOfShape"):
        return _stored_type(attributes)
    if op == "Where":
        return given[1] if len(given) > 1 else 0
    return given[0] if given else 0


def _number(attributes: Mapping[str, Message], name: str) -> int:
    attribute = attributes.get(name)
    return 0 if attribute is None else attribute.integer(Attribute.INT)


def _stored_type(attributes: Mapping[str, Message]) -> int:
    attribute = attributes.get("value")
    tensor = None if attribute is None else attribute.message(Attribute.TENSOR)
    return _FLOAT32 if tensor is None else tensor.integer(Tensor.DATA_TYPE)


def _value_type(value: Message) -> int:
    kind = value.message(Value.TYPE)
    tensor = None if kind is None else kind.message(Type.TENSOR)
    return 0 if tensor is None else tensor.integer(Type.ELEMENT)
