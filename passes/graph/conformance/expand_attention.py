"""ONNX Runtime's fused attention operators as two products and a softmax.

Source: ONNX Runtime's ContribOperators.md, com.microsoft.Attention and com.microsoft.MultiHeadAttention. Both are
softmax(Q K^T * scale + mask) V over heads that lie side by side in the last dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from enginery.passes.graph.conformance.expand import Made, Writer, is_used, optional
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def _attention(write: Writer) -> Made | str:
    """Inputs: input, weights, bias, mask_index, past, attention_bias. Outputs: output, present."""
    node = write.node
    if optional(node, 4) is not None or is_used(node, 1, write.edits):
        return "it keeps keys and values"
    if node.attrs.get("do_rotary", 0) or not is_known(node.inputs[1]):
        return "it rotates, or its weights are computed"
    columns = int(peek(node.inputs[1]).shape[1])
    sizes = [int(size) for size in node.attrs.get("qkv_hidden_sizes", ())] or [columns // 3] * 3
    projected = write("MatMul", *node.inputs[:2])
    if (bias := optional(node, 2)) is not None:
        projected = write("Add", projected, bias)
    parts = write.parts("Split", 3, projected, write.integers(*sizes), axis=-1)
    objection = _objection(write, optional(node, 3), sizes[0])
    return objection or [_core(write, *parts, mask=optional(node, 3), added=optional(node, 5), hidden=sizes[0])]


def _multi_head_attention(write: Writer) -> Made | str:
    """Inputs: query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value. Output: output."""
    node = write.node
    if any(optional(node, index) is not None for index in (6, 7)) or any(
        is_used(node, index, write.edits) for index in (1, 2, 3)
    ):
        return "it keeps keys and values"
    parts = [optional(node, index) for index in range(3)]
    if any(part is None or (part.shape is not None and len(part.shape) != 3) for part in parts):
        return "its queries, keys and values are not three tensors of (batch, length, hidden size)"
    bias, hidden = optional(node, 3), _hidden(node)
    if hidden is None or (bias is not None and not is_known(bias)):
        return "its hidden size is not known" if hidden is None else "its bias is computed"
    given = [part for part in parts if part is not None]
    if bias is not None:
        values = peek(bias)
        pieces = np.split(values, [hidden, 2 * hidden])
        constants = [write.constant("bias", piece) for piece in pieces]
        given = [write("Add", part, piece, like=part) for part, piece in zip(given, constants, strict=True)]
    objection = _objection(write, optional(node, 4), hidden)
    return objection or [_core(write, *given, mask=optional(node, 4), added=optional(node, 5), hidden=hidden)]


def _hidden(node: gs.Node) -> int | None:
    """The size of queries and keys together over all heads."""
    for tensor in node.inputs[:2]:
        if not tensor.is_empty() and tensor.shape is not None and isinstance(tensor.shape[-1], int):
            return int(tensor.shape[-1])
    bias = optional(node, 3)
    return int(peek(bias).size) // 3 if bias is not None and is_known(bias) else None


def _objection(write: Writer, mask: gs.Tensor | None, hidden: int) -> str | None:
    node = write.node
    if node.attrs.get("unidirectional", 0):
        return "it is causal"
    if hidden % int(node.attrs["num_heads"]):
        return "its heads do not share the hidden size evenly"
    if mask is not None and (mask.shape is None or len(mask.shape) != 2):
        return f"its mask {mask.name!r} is not known to be (batch, length)"
    return None


def _core(
    write: Writer, queries: gs.Tensor, keys: gs.Tensor, values: gs.Tensor, *,
    mask: gs.Tensor | None, added: gs.Tensor | None, hidden: int,
) -> gs.Tensor:  # fmt: skip
    node = write.node
    heads = int(node.attrs["num_heads"])
    scale = float(node.attrs.get("scale", 0.0)) or 1 / math.sqrt(hidden // heads)
    split = write.integers(0, 0, heads, -1)
    apart = [write("Reshape", part, split) for part in (queries, keys, values)]
    turned = [
        write("Transpose", part, perm=order)
        for part, order in zip(apart, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    ]
    scores = write("MatMul", write("Mul", turned[0], scale), turned[1])
    if mask is not None:
        scores = write("Add", scores, _additive(write, mask))
    if added is not None:
        scores = write("Add", scores, added)
    mixed = write("MatMul", write("Softmax", scores, axis=-1), turned[2])
    together = write("Transpose", mixed, perm=[0, 2, 1, 3])
    return write("Reshape", together, write.integers(0, 0, -1), like=node.outputs[0])


def _additive(write: Writer, mask: gs.Tensor) -> gs.Tensor:
    """(batch, 1, 1, length): 0 where the mask of integers is 1, the filter value where it is 0."""
    hidden = float(write.node.attrs.get("mask_filter_value", -10000.0))
    kept = write("Cast", mask, to=int({2: 10, 4: 1, 8: 11}[write.dtype.itemsize]))
    filtered = write("Mul", write("Sub", 1.0, kept), hidden)
    return write("Unsqueeze", filtered, write.integers(1, 2))


ATTENTION: Final[Mapping[str, Callable[[Writer], Made | str]]] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
}
