"""Findings, and the rules that make them: one row of the table of what a target accepts is one rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

Severity = Literal["error", "warning"]
"""error: the target refuses the model, crashes, or gives wrong numbers. warning: it is slower than it looks."""


@dataclass(frozen=True)
class Finding:
    """One thing in a model that a target does not take as it is meant.

    `versions` says which versions of the target are concerned. `fix` says what the fix does; None where there is none.
    """

    rule: str
    severity: Severity
    node: str
    reason: str
    versions: str
    fix: str | None

    def __str__(self) -> str:
        text = f"{self.severity}: {self.node}: {self.reason} [{self.rule}; {self.versions}]"
        return f"{text} Fix: {self.fix}." if self.fix else text

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Match:
    """A place where a rule applies. `repair` collects the edits that fix it; None where it cannot be fixed."""

    node: str
    reason: str
    repair: Callable[[], None] | None = None


class Rule(ABC):
    """One row. After a repair, the rule no longer matches there."""

    name: ClassVar[str]
    severity: ClassVar[Severity] = "error"
    versions: ClassVar[str] = "all versions"
    remedy: ClassVar[str] = ""
    """What a repair does, in a few words."""

    @abstractmethod
    def matches(self, edits: Edits) -> Iterable[Match]:
        """The places in `edits.graph` where the rule applies. Nothing is changed before a repair is called."""

    def concerns(self, target: str) -> bool:
        """Whether the rule is about the target; `versions` names one where it is not about all of TensorRT."""
        return not self.versions.startswith("tensorrt-rtx") or target == "tensorrt-rtx"

    def finding(self, match: Match) -> Finding:
        fix = self.remedy if match.repair is not None else None
        return Finding(self.name, self.severity, match.node, match.reason, self.versions, fix)
