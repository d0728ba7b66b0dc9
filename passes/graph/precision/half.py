"""Half precision: float16 or bfloat16 where it is safe, float32 where it is not.

Micikevicius et al., "Mixed Precision Training", 2018: products in half precision, sums, norms and softmax in single.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.edit import Names, label, producer
from enginery.passes.graph.precision.policy import FOLLOWS, SINGLE, half_inputs
from enginery.passes.graph.weights import DerivedValues, is_known, is_sparse, numpy_dtype, peek

if TYPE_CHECKING:
    from onnx import TensorProto

_SINGLE = np.dtype(np.float32)
_HIDES = 1e8
"""A constant beyond this only hides something (a mask, a clip without bound); the largest half does that too."""

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")

FLOAT16_ROOM = 65504 / 2
"""Where a tensor that calibration saw counts as too large for float16: other inputs may be twice as large."""


@dataclass(frozen=True)
class ConvertToHalf:
    """Computes in float16 or bfloat16, with float32 at the model's border and wherever a policy keeps it.

    1. Nodes compute in `to`, and float32 weights become `to`, read and converted one at a time when the model is saved.
    2. Inputs and outputs of the model keep their type; casts stand at the border.
    3. Reductions, norms, softmax, exponentials, recurrences and what has no half-precision form stay in float32. So do
       nodes whose name matches one of the regular expressions `keep` (full match), and those with subgraphs. (Refused,
       where `keep` did not ask for it and the reason is not the kind of op.)
    4. A node with a constant that float16 cannot hold stays in float32, and so does one that reads or makes a tensor
       named in `large`: what statistics saw beyond the range of float16. (Refused.) Constants beyond 1e8 only hide
       scores or open a bound; they become the largest half, and infinities stay: rows of them alone are NaN behind a
       softmax, and guards look for that.
    5. Nodes that only move values (Reshape, Transpose, Gather, ...) take the precision of what they move. Each tensor
       is cast at most once, where it is made.
    6. Subgraphs and function bodies are left in float32.
    7. Q/DQ pairs stay in float32. With `pairs` their scales and what they read and make take the new precision too: a
       runtime has integer kernels between halves for pairs of halves only. Where a scale is too small for float16's
       normal range, where what computes from the pair stays in float32, and before opset 19, which has no such pairs,
       both stay. (Refused.)
    """

    name: ClassVar[str] = "convert-to-half"
    tolerance: ClassVar[float] = 2e-2

    to: Literal["float16", "bfloat16"] = "float16"
    keep: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    pairs: bool = False

    def apply(self, graph: gs.Graph) -> PassResult:
        half = _dtype(self.to)
        refusals: list[Refusal] = []
        chosen: dict[int, gs.Node] = {}
        for node in graph.nodes:
            reason = self._objection(node, graph, half, chosen)
            if reason is None and _floats(node):
                chosen[id(node)] = node
            elif reason:
                refusals.append(Refusal(label(node), f"kept in float32: {reason}"))
        if chosen:
            _Conversion(graph, half, chosen).run()
        return PassResult(len(chosen), tuple(refusals))

    def _objection(
        self, node: gs.Node, graph: gs.Graph, half: np.dtype[Any], chosen: Mapping[int, gs.Node]
    ) -> str | None:
        """Why the node stays in float32; an empty string where its kind is reason enough."""
        if self.pairs and node.op in _PAIR:
            return self._objection_to_pair(node, graph, half)
        if (reason := self._own_objection(node, graph, half)) is not None:
            return reason
        for pair in _pairs_before(node) if self.pairs and node.op in _COMPUTE else ():
            if id(pair) not in chosen:
                return f"{label(pair)} in front of it stays there"
        if node.op in FOLLOWS:
            source = node.inputs[0] if node.inputs else None
            maker = producer(source) if source is not None else None
            known = source is not None and is_known(source)
            return None if known or (maker is not None and id(maker) in chosen) else ""
        return None

    def _own_objection(self, node: gs.Node, graph: gs.Graph, half: np.dtype[Any]) -> str | None:
        """The same, as far as the node alone decides it."""
        if node.op in SINGLE or any(True for _ in node.subgraphs()):
            return ""
        if any(re.fullmatch(pattern, node.name) for pattern in self.keep):
            return ""
        if node.op == "Cast" and not (_is_single(node.outputs[0]) and _is_integer(node.inputs[0])):
            return ""  # casts between floats stand where somebody wants them
        if not half_inputs(node, graph.opset, self.to):
            return ""
        for tensor in (*node.inputs, *node.outputs):
            if tensor.name in self.large and not tensor.is_empty():
                return f"{tensor.name!r} was seen with values that float16 cannot hold"
        for tensor in node.inputs if node.op not in FOLLOWS else ():
            if isinstance(tensor, gs.Constant) and not is_sparse(tensor) and _is_single(tensor):
                if not is_known(tensor):
                    return f"the caller may set {tensor.name!r}"
                if half == np.float16 and (largest := _too_large(tensor)) is not None:
                    return f"{tensor.name!r} holds {largest:g}, more than float16 can"
        return None

    def _objection_to_pair(self, node: gs.Node, graph: gs.Graph, half: np.dtype[Any]) -> str | None:
        if not half_inputs(node, graph.opset, self.to):
            return f"opset {graph.opset} has no Q/DQ pairs of halves"
        readers = list(_computing(node))
        for each in (node, *(pair for reader in readers for pair in _pairs_before(reader))):
            if half == np.float16 and (smallest := _too_small(each.inputs[1])) is not None:
                return f"the scale of {smallest:.3g} of {label(each)} is below what float16 holds in full"
        for reader in readers:
            if (reason := self._own_objection(reader, graph, half)) is not None:
                return reason or f"{label(reader)}, which computes from it, stays there"
        return None


class _Conversion:
    """Rewires one graph: `chosen` nodes read and write half precision, the others float32."""

    def __init__(self, graph: gs.Graph, half: np.dtype[Any], chosen: Mapping[int, gs.Node]) -> None:
        self._graph = graph
        self._half = half
        self._chosen = chosen
        self._names = Names(graph)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._weights: dict[int, gs.Constant] = {}
        self._casts: dict[tuple[int, str], gs.Variable] = {}
        self._after: dict[int, list[gs.Node]] = {}
        self._first: list[gs.Node] = []
        self._halved: set[int] = set()

    def run(self) -> None:
        self._turn_outputs()
        for node in self._graph.nodes:
            wanted = half_inputs(node, self._graph.opset, self._half.name) if id(node) in self._chosen else set[int]()
            for index, tensor in enumerate(node.inputs):
                if not tensor.is_empty():
                    self._connect(node, index, tensor, self._half if index in wanted else _SINGLE)
            self._captured(node)
        placed = list(self._first)
        for node in self._graph.nodes:
            placed.append(node)
            placed.extend(self._after.get(id(node), ()))
        self._graph.nodes = placed

    def _turn_outputs(self) -> None:
        for node in self._chosen.values():
            if node.op == "Cast":
                node.attrs["to"] = onnx.helper.np_dtype_to_tensor_dtype(self._half)
            for index, tensor in enumerate(node.outputs):
                if tensor.is_empty() or not _is_single(tensor):
                    continue
                if id(tensor) in self._outputs:  # case 2: the output keeps its name and type behind a cast
                    inner = gs.Variable(self._names.fresh(f"{tensor.name}/half"), self._half, tensor.shape)
                    _swap(node.outputs, index, inner, node, "inputs")
                    list.clear(tensor.inputs)
                    self._move_readers(tensor, inner)
                    self._cast_after(node, inner, tensor)
                    tensor = inner
                tensor.dtype = self._half
                self._halved.add(id(tensor))

    def _move_readers(self, old: gs.Tensor, new: gs.Tensor) -> None:
        for reader in {id(each): each for each in old.outputs}.values():
            for index, tensor in enumerate(reader.inputs):
                if tensor is old:
                    _swap(reader.inputs, index, new, reader, "outputs")
        list.clear(old.outputs)

    def _cast_after(self, node: gs.Node, source: gs.Tensor, target: gs.Tensor) -> None:
        to = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(target))
        name = self._names.fresh(f"{target.name}/cast")
        self._after.setdefault(id(node), []).append(gs.Node("Cast", name, {"to": to}, [source], [target]))

    def _connect(self, node: gs.Node, index: int, tensor: gs.Tensor, wanted: np.dtype[Any]) -> None:
        halved = id(tensor) in self._halved
        if tensor.dtype is None or not (halved or _is_single(tensor)) or halved == (wanted == self._half):
            return
        if is_known(tensor):
            _swap(node.inputs, index, self._weight(tensor), node, "outputs")
        else:
            _swap(node.inputs, index, self._cast(tensor, wanted), node, "outputs")
        list.remove(tensor.outputs, node)

    def _weight(self, tensor: gs.Constant) -> gs.Constant:
        if id(tensor) not in self._weights:
            alone = all(id(reader) in self._chosen for reader in tensor.outputs)
            name = tensor.name if alone else self._names.fresh(f"{tensor.name}/half")
            self._weights[id(tensor)] = gs.Constant(name, ConvertedValues(tensor, self._half))
        return self._weights[id(tensor)]

    def _cast(self, tensor: gs.Tensor, wanted: np.dtype[Any]) -> gs.Variable:
        key = (id(tensor), wanted.name)
        if key not in self._casts:
            made = gs.Variable(self._names.fresh(f"{tensor.name}/{wanted.name}"), wanted, tensor.shape)
            self._casts[key] = made
            to = onnx.helper.np_dtype_to_tensor_dtype(wanted)
            cast = gs.Node("Cast", self._names.fresh(f"{made.name}/cast"), {"to": to}, [tensor], [made])
            maker = producer(tensor)
            (self._first if maker is None else self._after.setdefault(id(maker), [])).append(cast)
        return self._casts[key]

    def _captured(self, node: gs.Node) -> None:
        """Case 6: what a subgraph reads from here stays in float32."""
        for inner in node.subgraphs(recursive=True):
            for each in inner.nodes:
                for index, tensor in enumerate(each.inputs):
                    if id(tensor) in self._halved:
                        _swap(each.inputs, index, self._cast(tensor, _SINGLE), each, "outputs")
                        list.remove(tensor.outputs, each)


class ConvertedValues(DerivedValues):
    """The values of a constant in another precision, converted when they are read."""

    def __init__(self, source: gs.Constant, dtype: np.dtype[Any]) -> None:
        proto: TensorProto = onnx.TensorProto(
            name=source.name, dims=list(source.shape), data_type=onnx.helper.np_dtype_to_tensor_dtype(dtype)
        )
        super().__init__(proto)
        self._source = source
        self._dtype = dtype

    def load(self) -> Any:
        values = peek(self._source)
        if self._dtype == np.float16:
            limit = np.finfo(np.float16).max
            values = np.where(np.isinf(values), values, np.clip(values, -limit, limit))  # case 4
        return np.asarray(values.astype(self._dtype))


def _dtype(name: str) -> np.dtype[Any]:
    kind = onnx.TensorProto.FLOAT16 if name == "float16" else onnx.TensorProto.BFLOAT16
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def _is_single(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and numpy_dtype(tensor) == _SINGLE


def _is_integer(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and numpy_dtype(tensor).kind in "iub"


def _floats(node: gs.Node) -> bool:
    tensors: Iterable[gs.Tensor] = (*node.inputs, *node.outputs)
    return any(not tensor.is_empty() and _is_single(tensor) for tensor in tensors)


def _too_large(tensor: gs.Constant) -> float | None:
    """The largest value that float16 cannot hold and that does more than hide; None when there is none."""
    values = np.abs(peek(tensor))
    beyond = values[(values > np.finfo(np.float16).max) & (values < _HIDES)]
    return float(beyond.max()) if beyond.size else None


def _too_small(scale: gs.Tensor) -> float | None:
    """The least positive scale that float16 holds with fewer digits than others; None when there is none."""
    values = peek(scale) if isinstance(scale, gs.Constant) and is_known(scale) else np.zeros(1, np.float32)
    below = values[(values > 0) & (values < np.finfo(np.float16).smallest_normal)]
    return float(below.min()) if below.size else None


def _computing(pair: gs.Node) -> Iterator[gs.Node]:
    """The products and convolutions that read what a pair, or one half of it, stands for."""
    for reader in pair.outputs[0].outputs:
        if reader.op == "DequantizeLinear":
            yield from _computing(reader)
        elif reader.op in _COMPUTE:
            yield reader


def _pairs_before(node: gs.Node) -> list[gs.Node]:
    """The DequantizeLinear nodes in front of a node."""
    makers = (producer(tensor) for tensor in node.inputs)
    return [maker for maker in makers if maker is not None and maker.op == "DequantizeLinear"]


def _swap(links: list[Any], index: int, new: gs.Tensor, node: gs.Node, field: str) -> None:
    """Put `new` at `index` of a node's inputs or outputs; the old tensor's link is the caller's to remove."""
    list.__setitem__(links, index, new)
    list.append(getattr(new, field), node)
