"""The live display of a stage: a spinner, and a bar with the time that is left once the total is known."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text


class Known(ProgressColumn):
    """A column that is empty while the task's total is unknown: a bar that only moves to and fro says nothing."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total is None else self._column(task)


def live_display() -> Progress:
    """The display, on standard error; it leaves nothing behind."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        Known(BarColumn()),
        Known(MofNCompleteColumn()),
        Elapsed(),
        Known(Remaining()),
    )
    # The stream as it is now: a stage may silence what a library prints to it, and the display goes on.
    console = Console(file=sys.stderr)
    # Speed is taken over ten minutes, since one batch of a large model may take one.
    return Progress(*columns, console=console, transient=True, speed_estimate_period=600.0)
