"""What operators of com.microsoft compute, written in operators of ONNX that every opset from 13 on has.

Source of each: ONNX Runtime's ContribOperators.md. An expansion gives the new tensors for a node's outputs, in order
(None for one that nothing uses), or a text that says why the node is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import numpy.typing as npt

    from enginery.passes.graph.edit import Edits

Made = list[gs.Tensor | None]
INNER_NORM_OPSET: Final = 17
"""The opset that brought LayerNormalization."""


class Writer:
    """Writes nodes in the place of one; with `dry`, only pretends to, to learn whether there is an objection.

    A float among the inputs becomes a constant of the node's float type.
    """

    def __init__(self, edits: Edits, node: gs.Node, *, dry: bool = False) -> None:
        self.edits = edits
        self.node = node
        self.opset = edits.names.model.opset
        self._dry = dry
        dtype = next((tensor.dtype for tensor in node.inputs if _is_float(tensor)), None)
        self.dtype = np.dtype(np.float32 if dtype is None else dtype)

    def __call__(self, op: str, *inputs: gs.Tensor | float, like: gs.Tensor | None = None, **attrs: Any) -> gs.Tensor:
        made = self._variable(op, like)
        self._node(op, [self._tensor(value) for value in inputs], [made], attrs)
        return made

    def parts(self, op: str, count: int, *inputs: gs.Tensor, **attrs: Any) -> list[gs.Tensor]:
        """A node with several outputs."""
        made = [self._variable(f"{op}_{index}") for index in range(count)]
        self._node(op, list(inputs), made, attrs)
        return made

    def integers(self, *values: int) -> gs.Tensor:
        return self.constant("integers", np.array(values, np.int64))

    def constant(self, name: str, values: npt.NDArray[Any]) -> gs.Tensor:
        return self._variable(name) if self._dry else self.edits.constant(f"{label(self.node)}/{name}", values)

    def _tensor(self, value: gs.Tensor | float) -> gs.Tensor:
        return value if isinstance(value, gs.Tensor) else self.constant(f"{value:g}", np.array(value, self.dtype))

    def _variable(self, name: str, like: gs.Tensor | None = None) -> gs.Tensor:
        wish = f"{label(self.node)}/{name}_out"
        made = gs.Variable(wish) if self._dry else self.edits.variable(wish)
        made.dtype = self.dtype if like is None else like.dtype
        made.shape = None if like is None else like.shape
        return made

    def _node(self, op: str, inputs: list[gs.Tensor], outputs: list[gs.Tensor], attrs: Mapping[str, Any]) -> None:
        if not self._dry:
            self.edits.node(op, inputs, at=self.node, attrs=attrs, name=f"{label(self.node)}/{op}", outputs=outputs)


def optional(node: gs.Node, index: int) -> gs.Tensor | None:
    """An optional input, or None where it is not given."""
    if len(node.inputs) <= index or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def is_used(node: gs.Node, index: int, edits: Edits) -> bool:
    """Whether anything reads an optional output."""
    if len(node.outputs) <= index or node.outputs[index].is_empty():
        return False
    return bool(node.outputs[index].outputs) or edits.is_output(node.outputs[index])


def gelu(write: Writer, x: gs.Tensor) -> gs.Tensor:
    """GELU: x/2 (1 + erf(x / sqrt 2))."""
    inner = write("Erf", write("Mul", x, 1 / math.sqrt(2), like=x), like=x)
    return write("Mul", write("Mul", x, 0.5, like=x), write("Add", inner, 1.0, like=x), like=x)


def tanh_gelu(write: Writer, x: gs.Tensor) -> gs.Tensor:
    """GELU by tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    square = write("Mul", x, x, like=x)
    cube = write("Mul", write("Mul", square, x, like=x), 0.044715, like=x)
    inner = write("Mul", write("Add", x, cube, like=x), math.sqrt(2 / math.pi), like=x)
    risen = write("Add", write("Tanh", inner, like=x), 1.0, like=x)
    return write("Mul", write("Mul", x, 0.5, like=x), risen, like=x)


def layer_norm(write: Writer, x: gs.Tensor, gamma: gs.Tensor, beta: gs.Tensor | None, epsilon: float) -> gs.Tensor:
    """Over the last axis: one operator where the opset has it, else mean and deviation."""
    if write.opset >= INNER_NORM_OPSET:
        given = [x, gamma, *([beta] if beta is not None else [])]
        return write("LayerNormalization", *given, like=x, axis=-1, epsilon=epsilon)
    centred = write("Sub", x, write("ReduceMean", x, axes=[-1], keepdims=1), like=x)
    variance = write("ReduceMean", write("Mul", centred, centred, like=x), axes=[-1], keepdims=1)
    deviation = write("Sqrt", write("Add", variance, epsilon))
    scaled = write("Mul", write("Div", centred, deviation, like=x), gamma, like=x)
    return scaled if beta is None else write("Add", scaled, beta, like=x)


def _biased(write: Writer, activation: Callable[[Writer, gs.Tensor], gs.Tensor]) -> Made:
    x, bias = write.node.inputs[0], optional(write.node, 1)
    return [activation(write, x if bias is None else write("Add", x, bias, like=x))]


def _bias_gelu(write: Writer) -> Made | str:
    return _biased(write, gelu)


def _fast_gelu(write: Writer) -> Made | str:
    return _biased(write, tanh_gelu)


def _quick_gelu(write: Writer) -> Made | str:
    x = write.node.inputs[0]
    gate = write("Sigmoid", write("Mul", x, float(write.node.attrs.get("alpha", 1.702)), like=x), like=x)
    return [write("Mul", x, gate, like=x)]


def _skip_layer_norm(write: Writer) -> Made | str:
    node = write.node
    if is_used(node, 1, write.edits) or is_used(node, 2, write.edits):
        return "its mean or deviation is used"
    x, skip, gamma = node.inputs[:3]
    total = write("Add", x, skip, like=x)
    if (bias := optional(node, 4)) is not None:
        total = write("Add", total, bias, like=x)
    epsilon = float(node.attrs.get("epsilon", 1e-12))
    return [layer_norm(write, total, gamma, optional(node, 3), epsilon), None, None, total]


def _embed_layer_norm(write: Writer) -> Made | str:
    node = write.node
    if is_used(node, 1, write.edits):
        return "its mask of lengths is used"
    tokens, positions, epsilon = node.inputs[0], optional(node, 8), float(node.attrs.get("epsilon", 1e-12))
    words = write("Gather", node.inputs[2], tokens, axis=0)
    if positions is None:
        shape = write("Shape", tokens)
        length = write("Gather", shape, write.integers(1), axis=0)
        shape.dtype = length.dtype = np.dtype(np.int64)
        places = write("Slice", node.inputs[3], write.integers(0), length, write.integers(0))
    else:
        places = write("Gather", node.inputs[3], positions, axis=0)
    total = write("Add", words, places)
    segments, table = optional(node, 1), optional(node, 4)
    if segments is not None and table is not None:
        total = write("Add", total, write("Gather", table, segments, axis=0))
    return [layer_norm(write, total, node.inputs[5], optional(node, 6), epsilon), None, total]


def _fused_mat_mul(write: Writer) -> Made | str:
    node = write.node
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        return "it transposes over the batch"
    operands = list(node.inputs[:2])
    for index, name in enumerate(("transA", "transB")):
        if not node.attrs.get(name, 0):
            continue
        given = operands[index]
        if is_known(given):
            turned = np.swapaxes(peek(given), -1, -2)
            operands[index] = write.constant("transposed", turned)
        elif given.shape is None:
            return f"the rank of {given.name!r} is not known"
        else:
            order = list(range(len(given.shape)))
            order[-2:] = order[:-3:-1]
            operands[index] = write("Transpose", given, perm=order)
    product = write("MatMul", *operands)
    alpha = float(node.attrs.get("alpha", 1.0))
    return [product if alpha == 1.0 else write("Mul", product, alpha)]


def _activated(write: Writer, x: gs.Tensor, name: str, parameters: Sequence[float]) -> gs.Tensor | str:
    """The activation that ONNX Runtime fused behind a product or convolution."""
    if name == "Clip":
        return write("Clip", x, *map(float, parameters))
    named = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Relu": (), "Sigmoid": (), "Tanh": ()}
    if name not in named:
        return f"its activation {name!r} is not known"
    return write(name, x, like=None, **dict(zip(named[name], parameters, strict=False)))


def _fused_conv(write: Writer) -> Made | str:
    node = write.node
    attrs = {key: value for key, value in node.attrs.items() if not key.startswith("activation")}
    bias, added = optional(node, 2), optional(node, 3)
    result: gs.Tensor | str = write("Conv", *node.inputs[:2], *([bias] if bias is not None else []), **attrs)
    if added is not None:
        result = write("Add", result, added)
    if name := node.attrs.get("activation"):
        result = _activated(write, result, name, node.attrs.get("activation_params", ()))
    return result if isinstance(result, str) else [result]


def _fused_gemm(write: Writer) -> Made | str:
    node = write.node
    attrs = {key: value for key, value in node.attrs.items() if not key.startswith("activation")}
    order = ("activation_alpha", "activation_beta")
    parameters = [float(node.attrs[key]) for key in order if key in node.attrs]
    bias = optional(node, 2)
    product = write("Gemm", *node.inputs[:2], *([bias] if bias is not None else []), **attrs)
    result = _activated(write, product, node.attrs.get("activation", ""), parameters)
    return result if isinstance(result, str) else [result]


EXPANSIONS: Final[Mapping[str, Callable[[Writer], Made | str]]] = {
    "BiasGelu": _bias_gelu,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_mat_mul,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
}


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype).kind == "f"
