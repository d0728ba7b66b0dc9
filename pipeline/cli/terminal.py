"""Shows a build on the terminal: a line per stage, progress for what takes long, silence where nobody looks.

Everything goes to standard error; standard output carries results only.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from enginery.pipeline.cli.options import VERBOSITY
from enginery.pipeline.events import Events, StageName

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Terminal(Events):
    """Listens to a build and writes to standard error.

    | standard error | default | -v or --explain | -q |
    |---|---|---|---|
    | a terminal | progress, notes, a line per stage that ran | and why each stage ran or was reused | nothing |
    | a file or pipe | notes | and why each stage ran or was reused | nothing |
    """

    def __init__(self, verbosity: int = 0, *, explain: bool = False, interactive: bool | None = None) -> None:
        self._verbosity = verbosity
        self._reasons = verbosity > 0 or explain
        self._interactive = sys.stderr.isatty() if interactive is None else interactive
        self._lines = self._reasons or (self._interactive and verbosity == 0)
        self._why = ""
        self._noted: set[str] = set()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @classmethod
    def from_context(cls, *, explain: bool = False) -> Self:
        """Build the terminal that the running command's -v and -q ask for."""
        return cls(click.get_current_context().meta.get(VERBOSITY, 0), explain=explain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def started(self, stage: StageName, why: str) -> None:
        self._why = why
        if self._interactive and self._verbosity >= 0:
            self._spin(str(stage))

    def reused(self, stage: StageName, why: str) -> None:
        self._hide()
        if self._reasons:
            self._line(f"  reused  {stage}: {why}")

    def finished(self, stage: StageName, seconds: float) -> None:
        self._hide()
        if self._lines:
            self._line(f"{seconds:7.1f}s  {stage}" + (f": {self._why}" if self._reasons else ""))

    def progress(self, stage: StageName, done: int, total: int | None, what: str) -> None:
        if self._progress is not None and self._task is not None:
            words = f"{stage}: {what}" if total is not None else f"{stage}: {done} {what}"
            self._progress.update(self._task, completed=done, total=total, description=words)

    def waiting(self, stage: StageName, reason: str) -> None:
        if self._verbosity >= 0:
            self._line(f" waiting  {stage}: {reason}")

    def note(self, text: str) -> None:
        """Say it once: candidates of one recipe share stages, and what is noted there."""
        if self._verbosity >= 0 and text not in self._noted:
            self._noted.add(text)
            self._line(f"    note  {text}")

    def _line(self, text: str) -> None:
        if self._progress is not None:
            # Through the live display, which otherwise draws over the line.
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            click.echo(text, err=True)

    def _spin(self, text: str) -> None:
        """Show a spinner, and a bar with the time that is left as soon as the total is known."""
        if self._progress is None:
            from enginery.pipeline.cli.progress import live_display

            self._progress = live_display()
            self._progress.start()
        self._hide()
        self._task = self._progress.add_task(text, total=None)

    def _hide(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
