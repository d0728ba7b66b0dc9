"""Operators of com.microsoft, which ONNX Runtime's own optimizer leaves in the files that it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.expand import EXPANSIONS, Made, Writer
from enginery.passes.graph.conformance.expand_attention import ATTENTION
from enginery.passes.graph.edit import label

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_OLDEST_OPSET: Final = 13
"""What expansions are written in: Split and Unsqueeze with inputs instead of attributes."""

_FORMS: Final = {**EXPANSIONS, **ATTENTION}


def has_form(node: gs.Node) -> bool:
    """Whether `ContribOperator` looks after a node."""
    return node.domain == "com.microsoft" and node.op in _FORMS


class ContribOperator(Rule):
    """Operators of com.microsoft that have a form in standard ONNX (`EXPANSIONS`, `ATTENTION`).

    1. The node is replaced by what it computes. TensorRT finds its own fusions in that form.
    2. Not fixed: a use that the form does not cover, such as a cache of keys and values; an opset before 13.
    3. `com.microsoft.Attention` is taken for ONNX's operator of that name, which has other inputs.
    """

    name: ClassVar[str] = "contrib-operator"
    remedy: ClassVar[str] = "write it in standard operators"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not has_form(node):
                continue
            reason = f"is com.microsoft.{node.op}, an operator of ONNX Runtime's own"
            if edits.names.model.opset < _OLDEST_OPSET:
                yield Match(label(node), f"{reason}; its standard form needs opset {_OLDEST_OPSET}. Export it again")
                continue
            yield _match(edits, node, reason, _FORMS[node.op])


def _match(edits: Edits, node: gs.Node, reason: str, expand: Callable[[Writer], Made | str]) -> Match:
    objection = expand(Writer(edits, node, dry=True))
    if isinstance(objection, str):
        return Match(label(node), f"{reason}; not rewritten: {objection}")

    def repair() -> None:
        made = expand(Writer(edits, node))
        assert not isinstance(made, str)
        for old, new in zip(node.outputs, made, strict=False):
            if new is not None and not old.is_empty():
                edits.replace(old, new)

    return Match(label(node), reason, repair)
