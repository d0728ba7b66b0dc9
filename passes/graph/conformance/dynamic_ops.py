"""Dynamic quantization (DynamicQuantizeLinear, MatMulInteger and ONNX Runtime's fused forms) as weight-only int8."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_INTEGER: Final = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_FUSED: Final = {"DynamicQuantizeMatMul": (2, 3, 4), "MatMulIntegerToFloat": (3, 5, 6)}
"""Where the weight's scale, its zero point and the bias are."""


class DynamicOperator(Rule):
    """Operators that choose the activations' range while they run; TensorRT has none for int8.

    1. Integer operators behind a DynamicQuantizeLinear compute in float on the unquantized input, so that the
       DynamicQuantizeLinear's scale becomes 1 and its zero point 0: (q - z) * s is the input itself.
    2. Their weight stays int8, dequantized with scale 1 where its integers less its zero point fit, else in float.
    3. `DynamicQuantizeMatMul` and `MatMulIntegerToFloat` become MatMul on a dequantized weight, and Add for a bias;
       behind a DynamicQuantizeLinear on its unquantized input, as above.
    4. The activations are no longer quantized: more exact, and not faster than float. For int8 speed, calibrate.
    5. Not fixed: weights that are computed; a DynamicQuantizeLinear that something else uses.
    """

    name: ClassVar[str] = "dynamic-quantization"
    remedy: ClassVar[str] = "compute in float with an int8 weight (for int8 arithmetic, calibrate and build again)"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if node.op == "DynamicQuantizeLinear" and not any(user.op in _FUSED for user in node.outputs[0].outputs):
                yield Match(label(node), "quantizes with a range that is found at run time", _unquantize(edits, node))
            elif node.op in _FUSED:
                repair = (lambda n=node: _fused(edits, n)) if is_known(node.inputs[1]) else None
                yield Match(label(node), f"is {node.op}, which quantizes its input at run time", repair)


def _unquantize(edits: Edits, node: gs.Node) -> Callable[[], None] | None:
    integers = node.outputs[0]
    scale, zero = (node.outputs[index] if len(node.outputs) > index else None for index in (1, 2))
    users = list({id(user): user for user in integers.outputs}.values())
    if not users or edits.is_output(integers) or any(not _replaceable(user, integers, zero) for user in users):
        return None
    if zero is not None and {id(u) for u in zero.outputs} - {id(u) for u in users}:
        return None

    def repair() -> None:
        for user in users:
            weight = _weight(edits, user)
            attrs = dict(user.attrs)
            result = edits.node(_INTEGER[user.op], [node.inputs[0], weight], at=user, attrs=attrs, like=user.outputs[0])
            result.dtype = np.dtype(np.float32)
            edits.replace(user.outputs[0], result)
        if scale is not None:
            edits.replace(scale, edits.constant(f"{node.name or node.op}/one", np.ones((), np.float32)))

    return repair


def _replaceable(user: gs.Node, integers: gs.Tensor, zero: gs.Tensor | None) -> bool:
    if user.op not in _INTEGER or user.inputs[0] is not integers or not is_known(user.inputs[1]):
        return False
    own_zero = user.inputs[2] if len(user.inputs) > 2 else None
    weight_zero = user.inputs[3] if len(user.inputs) > 3 else None
    known = weight_zero is None or weight_zero.is_empty() or is_known(weight_zero)
    cast = all(each.op == "Cast" for each in user.outputs[0].outputs)
    return own_zero is zero and known and cast and bool(user.outputs[0].outputs)


def _weight(edits: Edits, user: gs.Node) -> gs.Tensor:
    given = user.inputs[1]
    assert is_known(given)
    values = peek(given).astype(np.int32)
    zero = user.inputs[3] if len(user.inputs) > 3 else None
    if zero is not None and is_known(zero):
        zeros = peek(zero).astype(np.int32)
        axis = values.ndim - 1 if user.op == "MatMulInteger" else 0
        values = values - (
            zeros.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if zeros.size > 1 else zeros
        )
    if values.size and (values.min() < -128 or values.max() > 127):
        return edits.constant(f"{given.name}/float", values.astype(np.float32))
    name = given.name
    inputs = [
        edits.constant(f"{name}/int8", values.astype(np.int8)),
        edits.constant(f"{name}/scale", np.ones((), np.float32)),
        edits.constant(f"{name}/zero_point", np.zeros((), np.int8)),
    ]
    made = edits.node("DequantizeLinear", inputs, at=user, name=f"{user.name or user.op}/weight")
    made.dtype, made.shape = np.dtype(np.float32), given.shape
    return made


def _fused(edits: Edits, node: gs.Node) -> None:
    scale, zero, bias = _FUSED[node.op]
    name = node.name or node.op
    left = node.inputs[0]
    if node.op == "MatMulIntegerToFloat":
        maker = producer(left)
        dynamic = maker is not None and maker.op == "DynamicQuantizeLinear"
        left = maker.inputs[0] if maker is not None and dynamic else _dequantized(edits, node, [0, 2, 4], "input")
    value = edits.node(
        "MatMul", [left, _dequantized(edits, node, [1, scale, zero], "weight")], at=node, like=node.outputs[0]
    )
    if len(node.inputs) > bias and not node.inputs[bias].is_empty():
        value = edits.node("Add", [value, node.inputs[bias]], at=node, like=node.outputs[0], name=f"{name}/bias")
    edits.replace(node.outputs[0], value)


def _dequantized(edits: Edits, node: gs.Node, places: list[int], role: str) -> gs.Tensor:
    inputs = [node.inputs[index] for index in places if len(node.inputs) > index and not node.inputs[index].is_empty()]
    per_channel = is_known(inputs[1]) and peek(inputs[1]).size > 1
    attrs = {"axis": 1} if per_channel else {}
    if not per_channel and is_known(inputs[1]) and inputs[1].shape:
        # ONNX Runtime writes one-element vectors here, which would mean "per axis" to DequantizeLinear.
        inputs[1:] = [edits.constant(f"{t.name}/scalar", peek(t).reshape(())) if is_known(t) else t for t in inputs[1:]]
    made = edits.node("DequantizeLinear", inputs, at=node, attrs=attrs, name=f"{node.name or node.op}/{role}")
    made.dtype, made.shape = np.dtype(np.float32), inputs[0].shape
    return made
