"""Clips in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Var
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_INNER = Op("Clip", Var("x"), Var("low"), Var("high"))


class _TwoClips(Rule):
    patterns = (Op("Clip", _INNER, Var("least"), Var("most")),)

    def check(self, match: Match) -> str | None:
        for name in ("low", "high", "least", "most"):
            if not is_known(match[name]):
                return f"the bound {match[name].name!r} is no constant"
        return None

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        low, high, least, most = (match.values(name) for name in ("low", "high", "least", "most"))
        # The inner clip ends at its bounds, and the outer one moves those into its own.
        bounds = [np.minimum(np.maximum(bound, least), most) for bound in (low, high)]
        inputs = [match["x"], *(edits.constant("bound", bound) for bound in bounds)]
        return edits.node("Clip", inputs, at=match.root, takes_name=True, like=match.output)


@dataclass(frozen=True)
class MergeClips(RulePass):
    """Replaces two clips in a row by one.

    1. `Clip(Clip(x, low, high), least, most)` becomes one `Clip`, whose bounds are low and high clipped to least and
       most.
    2. A bound that is no constant, or that the caller may set, keeps both. (Refused.)
    3. A value between the two that something else reads keeps both. (Refused.)
    """

    name: ClassVar[str] = "merge-clips"
    tolerance: ClassVar[float] = 0.0

    def rules(self) -> tuple[Rule, ...]:
        return (_TwoClips(),)
