"""How a build tells its listener (a terminal, a log, nobody) what it is doing.

The pipeline calls these methods; it never prints. The base class ignores everything, so a listener overrides only
what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageName:
    """A stage, and which of its results it is: `compile` for `onnxruntime-cpu fp32`. `label` may be empty."""

    stage: str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.stage} ({self.label})" if self.label else self.stage


class Events:
    """Listens to a build. Methods are called from the thread that builds."""

    def started(self, stage: StageName, why: str) -> None:
        """Report that `stage` begins to run. `why` names what changed since the last build, or "first build"."""

    def reused(self, stage: StageName, why: str) -> None:
        """Report that the stored result of `stage` holds and is used."""

    def finished(self, stage: StageName, seconds: float) -> None:
        """Report that `stage` ran and that its result is in the store."""

    def progress(self, stage: StageName, done: int, total: int | None, what: str) -> None:
        """Report that `done` of `total` (None: unknown) pieces of `what` are behind us."""

    def waiting(self, stage: StageName, reason: str) -> None:
        """Report that another process holds what `stage` needs."""

    def note(self, text: str) -> None:
        """Report something that the user should know and that stops nothing."""
