"""What concerns the model as a whole: its opset, and the dimensions that a profile must cover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from enginery.passes.graph.conformance.base import Match, Rule, Severity

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

OLDEST_OPSET: Final = 7
NEWEST_OPSET: Final = 26
"""The newest opset that was tried."""


class UntestedOpset(Rule):
    """Opsets older than 7, of which TensorRT's parser says that they may not work, and newer ones than were tried."""

    name: ClassVar[str] = "opset"
    severity: ClassVar[Severity] = "warning"

    def matches(self, edits: Edits) -> Iterable[Match]:
        opset = edits.graph.opset
        if edits.graph is edits.names.model and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            yield Match(
                "the model", f"has opset {opset}; opsets {OLDEST_OPSET} to {NEWEST_OPSET} were tried. Export it again"
            )


class UncoveredDimension(Rule):
    """Dynamic dimensions of inputs that no optimization profile can cover.

    1. A dimension without a name: nothing can say its range.
    2. A named dimension without a declared range, where ranges are given.
    """

    name: ClassVar[str] = "uncovered-dimension"

    def __init__(self, ranges: Mapping[str, object] | None = None) -> None:
        self.ranges = ranges

    def matches(self, edits: Edits) -> Iterable[Match]:
        if edits.graph is not edits.names.model:
            return
        for tensor in edits.graph.inputs:
            if tensor.shape is None:
                yield Match(f"input {tensor.name!r}", "has no shape; a profile needs one. Export the model with shapes")
                continue
            for index, dim in enumerate(tensor.shape):
                if isinstance(dim, int) and dim >= 0:
                    continue
                if not isinstance(dim, str) or not dim:
                    yield Match(
                        f"input {tensor.name!r}", f"dimension {index} is dynamic and has no name to give a range to"
                    )
                elif self.ranges is not None and dim not in self.ranges:
                    known = ", ".join(sorted(self.ranges)) or "none"
                    yield Match(f"input {tensor.name!r}", f"dimension {dim!r} has no range (ranges: {known})")
