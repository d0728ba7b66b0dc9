"""Remove what no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import PassResult
from enginery.passes.graph.edit import detach, producer, scopes, used_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class RemoveDeadCode:
    """Removes nodes, optional outputs and functions that nothing uses.

    1. A node none of whose outputs reaches an output of its graph is removed, in subgraphs and function bodies too.
       Initializers that only it read go with it.
    2. An optional last output that nothing reads (the mask of a Dropout, the indices of a MaxPool) is dropped.
    3. A local function that nothing calls is removed.
    4. Graph inputs are kept although nothing reads them: they are the model's signature.
    """

    name: ClassVar[str] = "remove-dead-code"
    tolerance: ClassVar[float] = 0.0

    def apply(self, graph: gs.Graph) -> PassResult:
        changed = 0
        # Inner graphs last in order, first in work: what they no longer capture may be dead outside.
        for scope in reversed(list(scopes(graph))):
            changed += _remove_nodes(scope) + _trim_outputs(scope)
        return PassResult(changed + _remove_functions(graph))


def _remove_nodes(graph: gs.Graph) -> int:
    members = {id(node) for node in graph.nodes}
    used: set[int] = set()
    queue = [maker for tensor in graph.outputs if (maker := producer(tensor)) is not None]
    while queue:
        node = queue.pop()
        if id(node) not in used and id(node) in members:
            used.add(id(node))
            queue.extend(maker for tensor in used_tensors(node) if (maker := producer(tensor)) is not None)
    dead = [node for node in graph.nodes if id(node) not in used]
    detach(dead)
    if dead:
        graph.nodes = [node for node in graph.nodes if id(node) in used]
    return len(dead)


_OPTIONAL = {
    "BatchNormalization": 1,
    "Dropout": 1,
    "GRU": 0,
    "LSTM": 0,
    "LayerNormalization": 1,
    "MaxPool": 1,
    "RNN": 0,
}
"""Ops with optional outputs, and how many of their first ones are not optional."""


def _trim_outputs(graph: gs.Graph) -> int:
    outputs = {id(tensor) for tensor in graph.outputs}
    count = 0
    for node in graph.nodes:
        required = _OPTIONAL.get(node.op, len(node.outputs)) if not node.domain else len(node.outputs)
        while len(node.outputs) > max(1, required) and not _used(node.outputs[-1], outputs):
            tensor = node.outputs[-1]
            list.pop(node.outputs)
            list.clear(tensor.inputs)
            count += not tensor.is_empty()
    return count


def _used(tensor: gs.Tensor, outputs: set[int]) -> bool:
    return bool(tensor.outputs) or id(tensor) in outputs


def _remove_functions(graph: gs.Graph) -> int:
    by_name = {(function.domain, function.name): function for function in graph.functions}
    used: set[tuple[str, str]] = set()
    queue = list(_called(graph, by_name))
    while queue:
        called = queue.pop()
        if called not in used:
            used.add(called)
            queue.extend(_called(by_name[called], by_name))
    kept = [function for function in graph.functions if (function.domain, function.name) in used]
    removed = len(graph.functions) - len(kept)
    if removed:
        graph.functions = kept
    return removed


def _called(graph: gs.Graph, known: dict[tuple[str, str], gs.Function]) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if (node.domain or "", node.op) in known:
            yield node.domain or "", node.op
        for inner in node.subgraphs():
            yield from _called(inner, known)
