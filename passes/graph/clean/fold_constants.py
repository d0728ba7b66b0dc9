"""Compute at build time what does not depend on the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, nbytes, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_QUANTIZE = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class FoldConstants(ScopedPass):
    """Replaces nodes whose inputs are all known by their values.

    1. A `Constant` node becomes an initializer; a sparse one is kept, because runtimes differ on sparse initializers.
    2. A standard, deterministic node whose inputs are all constants is computed with ONNX's reference evaluator.
    3. A node whose results take more than `limit` bytes, and more than its inputs, is kept: folding an Expand or a
       ConstantOfShape could make a file of any size. (Refused.)
    4. Random nodes are kept, and so are those of other domains, and If, Loop and Scan.
    5. Q/DQ nodes are kept: their constants are what tells a runtime to use integer kernels.
    6. An initializer that is also an input is no constant: the caller may override it.
    7. Sequences are kept; an initializer is a tensor.
    8. Graph outputs are kept in the hands of a node. Function bodies are left alone; they cannot hold initializers.
    """

    name: ClassVar[str] = "fold-constants"
    in_functions: ClassVar[bool] = False

    limit: int = 1 << 20

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        known = _Known(edits)
        for node in edits.graph.nodes:
            if node.op == "Constant" and not node.domain:
                values = _constant_value(node)  # case 1
                if values is not None and not edits.is_output(node.outputs[0]):
                    known.learn(node, [values])
            elif known.inputs(node) and _foldable(node, edits):
                yield from self._fold(node, known)

    def _fold(self, node: gs.Node, known: _Known) -> Iterator[Refusal]:
        inputs = [tensor for tensor in node.inputs if not tensor.is_empty()]
        smallest = max(self.limit, sum(known.nbytes(tensor) for tensor in inputs))
        declared = [_size(tensor) for tensor in node.outputs]
        if (size := sum(each or 0 for each in declared)) > smallest:
            yield Refusal(label(node), f"not folded: its values take {size} bytes, more than the limit of {self.limit}")
            return
        if None in declared and node.op in {"Expand", "ConstantOfShape", "Tile", "Range"}:
            size = _extent(node, known)
            if size > smallest:
                yield Refusal(
                    label(node), f"not folded: its values take {size} bytes, more than the limit of {self.limit}"
                )
                return
        values = _evaluate(node, {t.name: known.value(t) for t in inputs}, known.edits.graph)
        if not any(isinstance(value, (list, tuple)) for value in values):  # case 7
            known.learn(node, values)


class _Known:
    """What is constant in one scope, including what this round has folded so far."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self._folded: dict[int, gs.Constant] = {}

    def inputs(self, node: gs.Node) -> bool:
        return bool(node.inputs) and all(t.is_empty() or self._constant(t) is not None for t in node.inputs)

    def _constant(self, tensor: gs.Tensor) -> gs.Constant | None:
        if id(tensor) in self._folded:
            return self._folded[id(tensor)]
        if is_known(tensor):  # case 6
            return tensor
        return None

    def value(self, tensor: gs.Tensor) -> Any:
        constant = self._constant(tensor)
        assert constant is not None
        return peek(constant)

    def nbytes(self, tensor: gs.Tensor) -> int:
        constant = self._constant(tensor)
        assert constant is not None
        return nbytes(constant)

    def learn(self, node: gs.Node, values: list[Any]) -> None:
        for tensor, value in zip(node.outputs, values, strict=True):
            if not tensor.is_empty():
                constant = self.edits.constant(tensor.name, np.asarray(value))
                self._folded[id(tensor)] = constant
                self.edits.replace(tensor, constant)


def _foldable(node: gs.Node, edits: Edits) -> bool:
    if node.domain or node.op in _RANDOM or node.op in _QUANTIZE or any(True for _ in node.subgraphs()):
        return False  # cases 4 and 5
    return not any(edits.is_output(tensor) for tensor in node.outputs)  # case 8


def _constant_value(node: gs.Node) -> Any:
    """The value of a Constant node, or None where it is sparse."""
    for key, value in node.attrs.items():
        if key == "value":
            return peek(value)
        if key in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if key in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if key in ("value_string", "value_strings"):
            return np.array(value, object)
    return None


def _size(tensor: gs.Tensor) -> int | None:
    """Bytes that the tensor's declared type takes, or None when a dimension is unknown."""
    if tensor.shape is None or tensor.dtype is None or not all(isinstance(dim, int) for dim in tensor.shape):
        return None
    return int(np.prod([int(dim) for dim in tensor.shape], dtype=np.int64)) * numpy_dtype(tensor).itemsize


def _extent(node: gs.Node, known: _Known) -> int:
    """Bytes that a node makes whose output shape is the value of its input."""
    values = [known.value(tensor) for tensor in node.inputs]
    if node.op == "Range":
        start, stop, step = (float(value) for value in values)
        return int(max(0.0, (stop - start) / step) * values[0].itemsize) if step else 0
    if node.op == "ConstantOfShape":
        return int(np.prod(values[0].astype(object))) * 4
    growth = int(np.prod(values[1].astype(object)))
    return growth * (values[0].itemsize if node.op == "Expand" else values[0].nbytes)


def _evaluate(node: gs.Node, feeds: dict[str, Any], graph: gs.Graph) -> list[Any]:
    """Run one node in ONNX's reference evaluator."""
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    proto = OnnxExporter.export_node(node)
    outputs = [tensor.name for tensor in node.outputs if not tensor.is_empty()]
    inputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in feeds]
    body = onnx.helper.make_graph(
        [proto], "fold", inputs, [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in outputs]
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", graph.opset)])
    results = dict(zip(outputs, ReferenceEvaluator(model).run(None, feeds), strict=True))
    return [results.get(tensor.name) for tensor in node.outputs]
