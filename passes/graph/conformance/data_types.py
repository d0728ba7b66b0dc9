"""Data types that TensorRT does not have, or has with other meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx

from enginery.passes.graph.conformance.base import Match, Rule, Severity
from enginery.passes.graph.conformance.grids import (
    Grid,
    as_float,
    consumers,
    grid_of,
    is_dequantize,
    is_quantize,
    real_values,
    scale_dtype,
)
from enginery.passes.graph.conformance.saturation import saturated
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known, numpy_dtype

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

MAX_RANK: Final = 8
_SAME_TYPE: Final = {
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Add": (0, 1),
    "Mul": (0, 1),
}
_ABSENT: Final = {np.dtype(name) for name in ("int16", "uint16", "uint32", "uint64", "complex64", "complex128")}
_HALF: Final = np.dtype(np.float16)
_FLOAT: Final = np.dtype(np.float32)


class UnsupportedQuantizedType(Rule):
    """Quantization to int16, uint16, uint4 and other types that TensorRT does not dequantize.

    1. A Q/DQ pair on an activation is removed: 16 bits are nearly float, and float is what TensorRT computes in. What
       lay beyond an end of its grid is still clipped there: that may have been a Relu.
    2. A constant becomes float.
    3. Not fixed: integers that come from elsewhere.
    """

    name: ClassVar[str] = "unsupported-quantized-type"
    remedy: ClassVar[str] = "compute in float there"
    _allowed: ClassVar = {np.dtype(name) for name in ("int8", "uint8", "int32")}

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node):
                continue
            grid = grid_of(node)
            if (
                grid is None
                or grid.dtype in self._allowed
                or grid.dtype.name in ("int4", "float8_e4m3fn", "float4_e2m1fn")
            ):
                continue
            yield Match(
                label(node),
                f"dequantizes {grid.dtype.name}, which TensorRT does not have",
                _in_float(edits, node, grid),
            )


class MixedFloats(Rule):
    """A dequantized float32 tensor that meets a float16 one, because the scale is float32.

    1. In a strongly typed network both inputs of an operator have one type, and the parser refuses the node.
    2. Fixed by a float16 scale where float16 holds it exactly enough (normal numbers), else by a Cast behind the DQ.
    """

    name: ClassVar[str] = "mixed-floats"
    remedy: ClassVar[str] = "dequantize to float16"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node) or scale_dtype(node) != _FLOAT or edits.is_output(node.outputs[0]):
                continue
            users = list(consumers(node.outputs[0]))
            halves = [
                user for user, index in users if index in _SAME_TYPE.get(user.op, ()) and _meets_half(user, index)
            ]
            if not halves:
                continue
            reason = f"gives float32 to {halves[0].op} {label(halves[0])!r}, whose other input is float16"
            whole = len(halves) == len(users) and is_known(node.inputs[1])
            yield Match(label(node), reason, lambda n=node, w=whole: _to_half(edits, n, whole=w))


class DoublePrecision(Rule):
    """float64 tensors, which TensorRT computes in float32 without saying so."""

    name: ClassVar[str] = "double-precision"
    severity: ClassVar[Severity] = "warning"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            double = any(t.dtype is not None and numpy_dtype(t) == np.float64 for t in node.outputs if not t.is_empty())
            if double:
                yield Match(label(node), "computes in float64; TensorRT does it in float32 in silence")


class UnsupportedType(Rule):
    """Inputs, outputs and Casts of a type that TensorRT does not have, and tensors of more than 8 dimensions.

    uint8 may come in and go out, and be cast to another type; nothing may compute in it.
    """

    name: ClassVar[str] = "unsupported-type"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for tensor in (*edits.graph.inputs, *edits.graph.outputs):
            reason = _type_reason(tensor)
            if reason:
                yield Match(f"tensor {tensor.name!r}", reason)
        for node in edits.graph.nodes:
            if node.op != "Cast" or node.domain:
                continue
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]))
            if dtype in _ABSENT or (dtype == np.uint8 and not edits.is_output(node.outputs[0])):
                yield Match(label(node), f"casts to {dtype.name}, which TensorRT does not compute in")


def _in_float(edits: Edits, node: gs.Node, grid: Grid) -> Callable[[], None] | None:
    given, old = node.inputs[0], node.outputs[0]
    maker = producer(given)
    if is_known(given) and not edits.is_output(old):
        return lambda: edits.replace(
            old, edits.constant(f"{given.name}/float", as_float(real_values(given, grid), scale_dtype(node)))
        )
    if maker is None or not is_quantize(maker):
        return None
    return lambda: edits.replace(old, saturated(edits, maker, grid))


def _type_reason(tensor: gs.Tensor) -> str | None:
    if getattr(tensor, "type", "tensor_type") != "tensor_type":
        return f"is a {getattr(tensor, 'type', '').removesuffix('_type')}; TensorRT has tensors only"
    if tensor.dtype is not None and (numpy_dtype(tensor) in _ABSENT or numpy_dtype(tensor).kind in "OSU"):
        return f"has the type {numpy_dtype(tensor).name}, which TensorRT does not have"
    if tensor.shape is not None and len(tensor.shape) > MAX_RANK:
        return f"has {len(tensor.shape)} dimensions; TensorRT has at most {MAX_RANK}"
    return None


def _meets_half(user: gs.Node, index: int) -> bool:
    return any(
        other != index and other < len(user.inputs) and user.inputs[other].dtype is not None
        and numpy_dtype(user.inputs[other]) == _HALF
        for other in _SAME_TYPE[user.op]
    )  # fmt: skip


def _to_half(edits: Edits, node: gs.Node, *, whole: bool) -> None:
    scale = node.inputs[1]
    if whole and is_known(scale):
        values = grid_of(node)
        smallest, largest = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)
        if values is not None and values.scale.min() >= smallest and values.scale.max() <= largest:
            half = edits.constant(f"{scale.name}/half", values.scale.astype(np.float16))
            rest = [node.inputs[0], half, *node.inputs[2:]]
            new = edits.node("DequantizeLinear", rest, at=node, like=node.outputs[0], attrs=dict(node.attrs))
            new.dtype = _HALF
            edits.replace(node.outputs[0], new)
            return
    copy = edits.node("DequantizeLinear", list(node.inputs), at=node, like=node.outputs[0], attrs=dict(node.attrs))
    cast = edits.node("Cast", [copy], at=node, like=node.outputs[0], attrs={"to": int(onnx.TensorProto.FLOAT16)})
    cast.dtype = _HALF
    edits.replace(node.outputs[0], cast)
