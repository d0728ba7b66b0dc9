"""Patterns over the graph, and rules that read as pattern, check, rewrite.

A pattern describes the tensor that a group of nodes makes:

    x = Var("x")
    gelu = Op("Mul", Op("Mul", x, Op("Add", Op("Erf", Op("Div", x, Scalar(2**0.5))), Scalar(1))), Scalar(0.5))

`Add`, `Mul` and the other commutative ops match with their two inputs in either order. A variable that is named twice
must be the same tensor twice. Nodes inside a match must not be read from outside it (`shared=True` lifts that for
nodes whose work it costs little to keep).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.opset import raise_opset
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

COMMUTATIVE = {"Add", "Mul", "And", "Or", "Xor", "Max", "Min", "Equal", "Sum"}

_RELATIVE = 1e-4  # exporters write constants such as sqrt(2) with as few as five digits


@dataclass(frozen=True)
class Var:
    """Any tensor."""

    name: str


@dataclass(frozen=True)
class Known:
    """A constant that nobody may override, of any shape."""

    name: str


@dataclass(frozen=True)
class Scalar:
    """A constant with one element: near `value` where one is given; bound to `name` where one is given."""

    value: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Op:
    """The first output of a node of one of the types `op` ("Mul" or "Mul|Div") in the standard domain.

    `attrs` must be equal where given. `name` binds the node. Missing trailing inputs match absent ones only.
    """

    op: str
    inputs: tuple[Pattern, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = ""
    shared: bool = False

    def __init__(
        self, op: str, *inputs: Pattern, attrs: Mapping[str, Any] | None = None, name: str = "", shared: bool = False
    ) -> None:
        for key, value in (("op", op), ("inputs", inputs), ("attrs", attrs or {}), ("name", name), ("shared", shared)):
            object.__setattr__(self, key, value)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.op.split("|"))


@dataclass(frozen=True)
class OneOf:
    """The first of several patterns that matches."""

    options: tuple[Pattern, ...]

    def __init__(self, *options: Pattern) -> None:
        object.__setattr__(self, "options", options)


Pattern = Var | Known | Scalar | Op | OneOf


def maybe(op: str, inner: Pattern, *, name: str = "") -> Pattern:
    """`inner`, or a one-input node such as a Cast around it."""
    return OneOf(Op(op, inner, name=name), inner)


@dataclass(frozen=True)
class Match:
    """Where a pattern was found: tensors and nodes by name, and every node of it, the root first."""

    tensors: Mapping[str, gs.Tensor]
    named: Mapping[str, gs.Node]
    nodes: tuple[gs.Node, ...]
    shared: frozenset[int]
    shapes: ShapeValues

    @property
    def root(self) -> gs.Node:
        return self.nodes[0]

    @property
    def output(self) -> gs.Tensor:
        return self.root.outputs[0]

    def __getitem__(self, name: str) -> gs.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def scalar(self, name: str) -> float:
        return float(peek(self._constant(name)).reshape(()).item())

    def values(self, name: str) -> Any:
        return peek(self._constant(name))

    def dims(self, name: str) -> tuple[int | str, ...] | None:
        return self.shapes.dims(self.tensors[name])

    def _constant(self, name: str) -> gs.Constant:
        tensor = self.tensors[name]
        assert is_known(tensor), f"{name} is bound to {tensor.name}, which is no constant"
        return tensor


def find(pattern: Pattern, tensor: gs.Tensor, shapes: ShapeValues) -> Match | None:
    """The first way in which `tensor` is made as `pattern` says."""
    for bound in _match(pattern, tensor, _Bound()):
        return Match(bound.tensors, bound.named, tuple(_distinct(bound.nodes)), frozenset(bound.shared), shapes)
    return None


def _distinct(nodes: Iterable[gs.Node]) -> list[gs.Node]:
    """The nodes without repetition, in order."""
    return list({id(node): node for node in nodes}.values())


@dataclass(frozen=True)
class _Bound:
    tensors: dict[str, gs.Tensor] = field(default_factory=dict[str, "gs.Tensor"])
    named: dict[str, gs.Node] = field(default_factory=dict[str, "gs.Node"])
    nodes: tuple[gs.Node, ...] = ()
    shared: tuple[int, ...] = ()

    def bind(self, name: str, tensor: gs.Tensor) -> _Bound | None:
        if not name:
            return self
        if name in self.tensors:
            return self if self.tensors[name] is tensor else None
        return _Bound(self.tensors | {name: tensor}, self.named, self.nodes, self.shared)

    def enter(self, node: gs.Node, pattern: Op) -> _Bound:
        named = self.named | {pattern.name: node} if pattern.name else self.named
        shared = (*self.shared, id(node)) if pattern.shared else self.shared
        return _Bound(self.tensors, named, (*self.nodes, node), shared)


def _match(pattern: Pattern, tensor: gs.Tensor, bound: _Bound) -> Iterator[_Bound]:
    if isinstance(pattern, Op):
        yield from _match_op(pattern, tensor, bound)
    elif isinstance(pattern, OneOf):
        for option in pattern.options:
            yield from _match(option, tensor, bound)
    elif _accepts(pattern, tensor) and (extended := bound.bind(pattern.name, tensor)) is not None:
        yield extended


def _accepts(pattern: Var | Known | Scalar, tensor: gs.Tensor) -> bool:
    if tensor.is_empty():
        return False
    if isinstance(pattern, Var):
        return True
    if not is_known(tensor):
        return False
    if isinstance(pattern, Known):
        return True
    if int(np.prod(tensor.shape)) != 1 or numpy_dtype(tensor).kind not in "iufV":
        return False
    value = float(peek(tensor).reshape(()).item())
    return pattern.value is None or abs(value - pattern.value) <= _RELATIVE * abs(pattern.value)


def _match_op(pattern: Op, tensor: gs.Tensor, bound: _Bound) -> Iterator[_Bound]:
    node = producer(tensor)
    if node is None or node.domain or node.op not in pattern.types or node.outputs[0] is not tensor:
        return
    if any(node.attrs.get(key) != value for key, value in pattern.attrs.items()):
        return
    given = list(node.inputs)
    while given and given[-1].is_empty():
        given.pop()
    if len(given) != len(pattern.inputs) or _adds_dimensions(pattern, given):
        return
    bound = bound.enter(node, pattern)
    orders: list[Sequence[Pattern]] = [pattern.inputs]
    if len(given) == 2 and node.op in COMMUTATIVE:
        orders.append(pattern.inputs[::-1])
    for order in orders:
        yield from _match_all(order, given, bound)


def _adds_dimensions(pattern: Op, given: Sequence[gs.Tensor]) -> bool:
    """Whether a number has more dimensions than everything that it is combined with: so has the result, then.

    What has dimensions that are not known is taken to have one at least.
    """
    if len(given) < 2 or not any(isinstance(each, Scalar) for each in pattern.inputs):
        return False
    single = [is_known(each) and math.prod(each.shape) == 1 for each in given]
    rank = [1 if each.shape is None else len(each.shape) for each in given]
    most = max((count for count, alone in zip(rank, single, strict=True) if not alone), default=0)
    return any(alone and count > most for count, alone in zip(rank, single, strict=True))


def _match_all(patterns: Sequence[Pattern], tensors: Sequence[gs.Tensor], bound: _Bound) -> Iterator[_Bound]:
    if not patterns:
        yield bound
        return
    for first in _match(patterns[0], tensors[0], bound):
        yield from _match_all(patterns[1:], tensors[1:], first)


class Rule(ABC):
    """One rewrite: where a pattern matches and `check` has no objection, `rewrite` makes the replacement."""

    patterns: tuple[Op, ...]
    """The ways in which exporters write it, tried in order."""

    opset: int = 0
    """The opset that the replacement needs; the model is raised to it where that is possible."""

    def check(self, match: Match) -> str | None:
        """Why the match must not be rewritten, naming the value at fault; None when it may be."""
        del match
        return None

    @abstractmethod
    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        """Add the new nodes where the root stands and return what replaces its output."""


class RulePass(ScopedPass):
    """A pass made of rules, tried from the most to the least specific on every node."""

    @abstractmethod
    def rules(self) -> tuple[Rule, ...]:
        """The rules, made with the pass's options."""

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        by_type: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules():
            for op in dict.fromkeys(op for pattern in rule.patterns for op in pattern.types):
                by_type[op].append(rule)
        shapes = ShapeValues()
        taken: set[int] = set()
        for node in edits.graph.nodes:
            if node.op in by_type and not node.domain and node.outputs:
                yield from self._try(by_type[node.op], node, shapes, edits, taken)

    def _try(
        self, rules: list[Rule], node: gs.Node, shapes: ShapeValues, edits: Edits, taken: set[int]
    ) -> Iterator[Refusal]:
        refused: Refusal | None = None
        for rule in rules:
            found = (find(pattern, node.outputs[0], shapes) for pattern in rule.patterns)
            match = next((each for each in found if each is not None), None)
            if match is None or any(id(each) in taken for each in match.nodes):
                continue
            reason = read_outside(match, edits) or rule.check(match) or reach_opset(edits, rule.opset)
            if reason is None:
                taken.update(id(each) for each in match.nodes if id(each) not in match.shared)
                edits.replace(match.output, rule.rewrite(match, edits))
                return
            refused = refused or Refusal(label(node), f"{self.name}: not rewritten: {reason}")
        if refused is not None:
            yield refused


def reach_opset(edits: Edits, version: int) -> str | None:
    """Raise the model to the opset that a new node needs, or say why that is not possible."""
    if edits.graph.opset >= version:
        return None
    if isinstance(edits.graph, gs.Function):
        return f"the function {edits.graph.name!r} is written in opset {edits.graph.opset}, and {version} is needed"
    reason = raise_opset(edits.names.model, version)
    return f"it needs opset {version}: {reason}" if reason else None


def read_outside(match: Match, edits: Edits) -> str | None:
    """Which value inside the match something else needs, and who; None when the match is closed."""
    inside = {id(node) for node in match.nodes}
    for node in match.nodes[1:]:
        if id(node) in match.shared:
            continue
        for tensor in node.outputs:
            if edits.is_output(tensor):
                return f"{tensor.name!r} is a graph output"
            outsider = next((reader for reader in tensor.outputs if id(reader) not in inside), None)
            if outsider is not None:
                return f"{tensor.name!r} is also read by {label(outsider)!r}"
    return None
