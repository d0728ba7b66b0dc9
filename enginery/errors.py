"""Every error that Enginery raises on purpose.

A message says what was given, what was expected or is available, and what to do. The command line prints the
message alone and exits with `exit_code`; a traceback is shown only with `--debug`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class EngineryError(Exception):
    """Base of all errors raised on purpose. Exit code 1: a stage failed or a gate refused."""

    exit_code = 1


class UsageError(EngineryError):
    """The command, an option or a file that the user wrote is wrong. Exit code 2."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe does not say what a recipe must say, or says something unknown."""


class UntrustedSourceError(UsageError):
    """Loading the given file can execute code, and the user did not say `--trust`."""


class MissingDependencyError(UsageError):
    """An optional package is absent. The message names the extra that brings it."""


class InvalidModelError(EngineryError):
    """A model file is malformed, hostile or outside what can be built."""


class SourceError(EngineryError):
    """A model's source raised, returned something else than a module, or does not match its pinned digest."""


class DataError(EngineryError):
    """Calibration or evaluation data is absent, not finite, or outside the declared dimensions."""


class StageError(EngineryError):
    """A stage of the build failed. The message begins with the stage's name."""


class PassError(EngineryError):
    """A pass failed, or broke the numbers. The message names the pass and the first tensor that differs."""


class StatisticsError(EngineryError):
    """Calibration statistics are missing, damaged or belong to another graph."""


class EngineError(EngineryError):
    """An engine could not be built, loaded or run as it was asked to."""


class InputError(EngineryError):
    """An input of a session has the wrong name, dtype or shape."""


class GateRefusedError(EngineryError):
    """A gate refused the engine. The message names the gate, the figure and the bound.

    `report` is the folder of the refused build's report, where there is one.
    """

    def __init__(self, message: str, report: Path | None = None) -> None:
        super().__init__(message)
        self.report = report


class IntegrityError(EngineryError):
    """A file's digest does not hold: it was damaged, changed, added or removed."""
