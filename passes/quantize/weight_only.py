"""Weight-only quantization: activations stay float, weights are stored in 8 or 4 bits, one scale per block.

A block is `block_size` consecutive input channels of one output channel. ONNX Runtime computes with such weights
directly (com.microsoft MatMulNBits); for TensorRT the weight stands behind a DequantizeLinear (blocked since opset 21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.grid import LIMITS
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.plan import names_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import has_constant_weight, output_axis, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]
_BLOCKED_OPSET = 21
_CHUNK = 1 << 20
"""Values that are rounded at once: temporaries of a whole output layer would take more than the rest of the model."""


def quantize_weights(graph: gs.Graph, policy: Policy, options: QuantizeOptions) -> PassResult:
    """Quantize the weight of every MatMul, and of every Gemm without alpha, beta and transA, in place.

    Weights are read one at a time, so that memory holds the small result and one float weight.
    """
    from enginery.passes.graph.opset import raise_opset

    bits = 4 if options.mode == "int4-weight" else 8
    size = options.block_size
    if size & (size - 1):
        raise UsageError(f"block_size is {size}; runtimes take powers of two from 16 on. Use 32, 64 or 128.")
    packed = policy.name.startswith("onnxruntime")
    if not packed and (reason := raise_opset(graph, _BLOCKED_OPSET)) is not None:
        return PassResult(refusals=(Refusal("graph", f"blocked weights need opset {_BLOCKED_OPSET}: {reason}"),))
    refusals: list[Refusal] = []
    changed: list[str] = []
    before = after = 0
    for node in list(graph.nodes):
        if node.op not in ("MatMul", "Gemm"):
            continue
        reason = _why_not(node, options)
        if reason is not None:
            refusals.append(Refusal(names_of(node)[0], reason))
            continue
        weight = values(weight_of(node))
        columns = weight if output_axis(node) == 0 else weight.T  # [N, K]
        integers, scales = quantize_blocks(columns, bits, size, symmetric=not packed)
        before, after = before + weight.nbytes, after + integers.size * bits // 8 + scales.nbytes
        if packed:
            _to_matmul_nbits(graph, node, integers, scales, columns.shape, bits)
        else:
            _to_dequantized(graph, node, integers, scales, columns.shape, bits)
        changed.append(names_of(node)[0])
    cast("Any", graph).toposort()
    details = {"integer": changed, "bits": bits, "float_bytes": before, "bytes": after}
    return PassResult(len(changed), tuple(refusals), details)


def quantize_blocks(columns: Floats, bits: int, size: int, *, symmetric: bool) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantize [N, K] in blocks of `size` along K, padded with zeros.

    Symmetric blocks use -(2^(bits-1)-1)..2^(bits-1)-1 and a positive scale. Otherwise the value of largest magnitude
    lies on -2^(bits-1) exactly, whatever its sign: one more level, and a scale that may be negative.

    Returns:
        Integers, int8 [N, blocks, size], and scales, float32 [N, blocks].
    """
    rows, length = columns.shape
    blocks = -(-length // size)
    integers = np.empty((rows, blocks, size), np.int8)
    scales = np.empty((rows, blocks), np.float32)
    step = max(1, _CHUNK // max(length, 1))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        padded = np.zeros((part.stop - start, blocks * size), np.float32)
        padded[:, :length] = columns[part]
        integers[part], scales[part] = _quantize_rows(padded.reshape(-1, blocks, size), bits, symmetric=symmetric)
    return integers, scales


def _quantize_rows(blocked: Floats, bits: int, *, symmetric: bool) -> tuple[npt.NDArray[np.int8], Floats]:
    low, high = LIMITS[f"int{bits}"]
    extreme = np.take_along_axis(blocked, np.abs(blocked).argmax(axis=2)[..., None], axis=2)[..., 0]
    scales = np.abs(extreme) / np.float32(high) if symmetric else extreme / np.float32(low)
    scales = np.where(scales == 0, np.float32(1), scales)
    return np.clip(np.rint(blocked / scales[..., None]), low, high).astype(np.int8), scales


def _why_not(node: gs.Node, options: QuantizeOptions) -> str | None:
    if options.for_node(*names_of(node)).quantize is False:
        return "kept in float: an option names it"
    if not has_constant_weight(node):
        return "its weight is computed, not constant"
    if len(weight_of(node).shape) != 2:
        return f"its weight has rank {len(weight_of(node).shape)}; rank 2 is needed"
    attrs = node.attrs
    if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0:
        return "it transposes its data or scales with alpha or beta"
    return None


def _to_matmul_nbits(
    graph: gs.Graph, node: gs.Node, integers: npt.NDArray[np.int8], scales: Floats, shape: tuple[int, ...], bits: int
) -> None:
    """Turn a node into MatMulNBits, and a Gemm's bias into an Add behind it."""
    import onnx_graphsurgeon as gs

    rows, length = shape
    name, output = node.outputs[0].name, node.outputs[0]
    bias = [each for each in node.inputs[2:3] if not each.is_empty()]
    size = integers.shape[2]
    inputs = [
        node.inputs[0],
        gs.Constant(f"{name}/weight", _pack(integers, bits)),
        gs.Constant(f"{name}/weight_scale", scales),
    ]
    # Level 4: the runtime may quantize activations to int8 inside the kernel, which is what makes it fast.
    attrs = {"K": length, "N": rows, "bits": bits, "block_size": size, "accuracy_level": 4}
    if bias:
        product = gs.Variable(f"{name}/product", output.dtype, output.shape)
        node.outputs.clear()
        graph.nodes.append(gs.Node("Add", f"{node.name}/bias", inputs=[product, *bias], outputs=[output]))
        output = product
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes.append(
        gs.Node("MatMulNBits", node.name, attrs, inputs=inputs, outputs=[output], domain="com.microsoft")
    )
    graph.nodes.remove(node)


def _pack(integers: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Integers as MatMulNBits stores them: offset to unsigned, two 4-bit values a byte, the first in the low half."""
    offset = integers.view(np.uint8) + np.uint8(1 << (bits - 1))  # wraps around, from two's complement to offset binary
    if bits == 8:
        return offset
    return np.bitwise_or(offset[..., 0::2], np.left_shift(offset[..., 1::2], 4), dtype=np.uint8)


def _to_dequantized(
    graph: Any, node: gs.Node, integers: npt.NDArray[np.int8], scales: Floats, shape: tuple[int, ...], bits: int
) -> None:
    """Put the weight behind a DequantizeLinear, blocked along the input channels."""
    import ml_dtypes
    import onnx_graphsurgeon as gs

    rows, length = shape
    dtype = weight_of(node).dtype
    by_row = output_axis(node) == 0
    flat = integers.reshape(rows, -1)[:, :length]
    stored, scale = (flat, scales) if by_row else (flat.T, scales.T)
    name = node.outputs[0].name
    kind: Any = np.int8 if bits == 8 else ml_dtypes.int4
    result = gs.Variable(f"{name}/weight/dequantized", dtype, list(stored.shape))
    inputs = [
        gs.Constant(f"{name}/weight/quantized", np.ascontiguousarray(stored.astype(kind))),
        gs.Constant(f"{name}/weight/scale", np.ascontiguousarray(scale).astype(dtype)),
    ]
    attrs = {"axis": int(by_row), "block_size": integers.shape[2]}
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/weight/DequantizeLinear", attrs, inputs, [result]))
    node.inputs[1] = result
