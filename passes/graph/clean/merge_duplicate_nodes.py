"""Compute equal things once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_graphsurgeon as gs

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import digest, is_sparse

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(frozen=True)
class MergeDuplicateNodes(ScopedPass):
    """Merges nodes that compute the same values (common subexpressions).

    1. Two nodes with the same op, attributes and inputs become the first of them.
    2. Where both feed a graph output, both are kept: an output needs a node of its own. (Refused.)
    3. Random nodes are kept: two draws are not equal. So are Dropout in training mode and nodes with subgraphs.
    4. Q/DQ nodes are kept: runtimes want a pair for each consumer.
    """

    name: ClassVar[str] = "merge-duplicate-nodes"
    tolerance: ClassVar[float] = 0.0

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        first: dict[Hashable, gs.Node] = {}
        same: dict[int, int] = {}  # id of a duplicate's output -> id of the tensor that stands for it
        for node in edits.graph.nodes:
            key = None if _kept(node) else _key(node, same)
            if key is None:
                continue
            twin = first.setdefault(key, node)
            if twin is node:
                continue
            pairs = [(old, new) for old, new in zip(node.outputs, twin.outputs, strict=True) if not old.is_empty()]
            if not all(edits.can_replace(old, new) for old, new in pairs):
                yield Refusal(label(node), f"not merged: it computes the same as {label(twin)}, and both are outputs")
                continue
            for old, new in pairs:
                same[id(old)] = id(new)
                edits.replace(old, new)


def _kept(node: gs.Node) -> bool:
    if node.op in _RANDOM or node.op in {"QuantizeLinear", "DequantizeLinear", "Dropout"}:
        return True  # cases 3 and 4
    return any(True for _ in node.subgraphs())


def _key(node: gs.Node, same: dict[int, int]) -> Hashable | None:
    attributes: list[Hashable] = []
    for name, value in sorted(node.attrs.items()):
        frozen = _frozen(value)
        if frozen is None:
            return None
        attributes.append((name, frozen))
    inputs = tuple("" if t.is_empty() else same.get(id(t), id(t)) for t in node.inputs)
    outputs = tuple(tensor.is_empty() for tensor in node.outputs)
    return node.domain or "", node.op, inputs, outputs, tuple(attributes)


def _frozen(value: Any) -> Hashable | None:
    if isinstance(value, gs.Constant):
        return None if is_sparse(value) else digest(value)
    if isinstance(value, list):
        return tuple(value)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, gs.Node.AttributeRef):
        return "ref", value.name
    return type(value).__name__, value if isinstance(value, (int, float, str, bytes)) else repr(value)
