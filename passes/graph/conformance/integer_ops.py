"""ONNX Runtime's operator-oriented int8 (QLinear*, QGemm) rewritten as Q/DQ around float operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class Form:
    """Where an operator keeps its tensors: (value, scale, zero point) of each operand, and of the result."""

    op: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int]
    bias: int | None = None
    attributes: tuple[str, ...] = ()


_WINDOW: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_UNARY: Final = ((0, 1, 2),)
_BINARY: Final = ((0, 1, 2), (3, 4, 5))

FORMS: Final = {
    "QLinearConv": Form("Conv", _BINARY, (6, 7), 8, _WINDOW),
    "QLinearMatMul": Form("MatMul", _BINARY, (6, 7)),
    "QLinearAdd": Form("Add", _BINARY, (6, 7)),
    "QLinearMul": Form("Mul", _BINARY, (6, 7)),
    "QLinearSigmoid": Form("Sigmoid", _UNARY, (3, 4)),
    "QLinearLeakyRelu": Form("LeakyRelu", _UNARY, (3, 4), attributes=("alpha",)),
    "QLinearSoftmax": Form("Softmax", _UNARY, (3, 4), attributes=("axis",)),
    "QLinearGlobalAveragePool": Form("GlobalAveragePool", _UNARY, (3, 4)),
    "QLinearAveragePool": Form("AveragePool", _UNARY, (3, 4), attributes=("ceil_mode", "count_include_pad", *_WINDOW)),
    "QGemm": Form("Gemm", _BINARY, (7, 8), 6, ("transA", "transB", "alpha")),
}
"""Operator specifications: ONNX QLinearConv-10, QLinearMatMul-10/21; ONNX Runtime ContribOperators for the others."""


class IntegerOperator(Rule):
    """QLinear operators and QGemm, which TensorRT does not have.

    1. Each operand is dequantized, the float operator computes, the result is quantized: the same up to rounding.
    2. The bias of QLinearConv and QGemm (int32, scale = operand's times weight's) becomes float.
    3. `QLinearConcat` dequantizes each operand with its own scale.
    4. Not fixed: channels-last pools, a bias that is computed.
    """

    name: ClassVar[str] = "integer-operator"
    remedy: ClassVar[str] = "rewrite as Q/DQ around the float operator"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if node.op in FORMS or node.op == "QLinearConcat":
                reason = f"is {node.op}, an integer operator; TensorRT takes Q/DQ around the float operator"
                yield Match(label(node), reason, _repair(edits, node))


def _repair(edits: Edits, node: gs.Node) -> Callable[[], None] | None:
    if node.op == "QLinearConcat":
        return lambda: _concat(edits, node)
    form = FORMS[node.op]
    if node.attrs.get("channels_last"):
        return None
    bias = form.bias if form.bias is not None and len(node.inputs) > form.bias else None
    if bias is not None and not node.inputs[bias].is_empty() and _bias(node, bias) is None:
        return None
    return lambda: _rewrite(edits, node, form, bias)


def _rewrite(edits: Edits, node: gs.Node, form: Form, bias: int | None) -> None:
    operands = [_dequantized(edits, node, *places, weight=index == 1) for index, places in enumerate(form.operands)]
    if bias is not None and not node.inputs[bias].is_empty():
        values = _bias(node, bias)
        assert values is not None
        operands.append(edits.constant(f"{node.name or node.op}/bias", values))
    attrs = {name: node.attrs[name] for name in form.attributes if name in node.attrs}
    if form.op == "Softmax" and "axis" not in attrs:
        attrs["axis"] = -1
    _finish(edits, node, form.op, operands, attrs, form.result)


def _concat(edits: Edits, node: gs.Node) -> None:
    triples = range(2, len(node.inputs), 3)
    operands = [_dequantized(edits, node, at, at + 1, at + 2, weight=False) for at in triples]
    _finish(edits, node, "Concat", operands, {"axis": node.attrs.get("axis", 0)}, (0, 1))


def _finish(
    edits: Edits, node: gs.Node, op: str, operands: Sequence[gs.Tensor], attrs: dict[str, Any], result: tuple[int, int]
) -> None:
    name = node.name or node.op
    value = edits.node(op, operands, at=node, attrs=attrs, name=f"{name}/{op}")
    value.dtype = np.dtype(np.float32)
    if len(node.inputs) > result[0] and not node.inputs[result[0]].is_empty():
        ends = _ends(edits, node, *result)
        quantized = edits.node("QuantizeLinear", [value, *ends], at=node, like=node.outputs[0], name=f"{name}/quantize")
        edits.replace(node.outputs[0], quantized)
    else:
        edits.replace(node.outputs[0], value)  # QGemm without a scale of its result gives float


def _ends(edits: Edits, node: gs.Node, scale: int, zero: int) -> list[gs.Tensor]:
    """Scale and zero point of the result. One left out is 0 of the operands' type here, uint8 there."""
    if len(node.inputs) > zero and not node.inputs[zero].is_empty():
        return [node.inputs[scale], node.inputs[zero]]
    dtype, given = node.inputs[0].dtype, node.inputs[scale]
    if dtype is None:
        return [given]
    shape = peek(given).shape if is_known(given) else ()
    return [given, edits.constant(f"{node.name or node.op}/zero_point", np.zeros(shape, dtype))]


def _dequantized(edits: Edits, node: gs.Node, value: int, scale: int, zero: int, *, weight: bool) -> gs.Tensor:
    inputs = [node.inputs[index] for index in (value, scale, zero) if len(node.inputs) > index]
    axis = 0
    if weight and node.op in ("QLinearMatMul", "QGemm"):
        axis = len(node.inputs[value].shape or (0, 0)) - 1 if not node.attrs.get("transB") else 0
    scales = node.inputs[scale]
    attrs = {"axis": axis} if is_known(scales) and peek(scales).size > 1 else {}
    made = edits.node("DequantizeLinear", inputs, at=node, attrs=attrs, name=f"{node.name or node.op}/operand")
    made.dtype = np.dtype(np.float32)
    made.shape = node.inputs[value].shape
    return made


def _bias(node: gs.Node, index: int) -> np.ndarray | None:
    given, left, right = node.inputs[index], node.inputs[1], node.inputs[4]
    if not (is_known(given) and is_known(left) and is_known(right)) or numpy_dtype(given) != np.int32:
        return None
    scale = peek(left).astype(np.float64) * peek(right).astype(np.float64) * float(node.attrs.get("alpha", 1.0))
    return (peek(given).astype(np.float64) * scale.reshape(-1)).astype(np.float32)
