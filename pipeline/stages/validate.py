"""Validate: measure how far the engine is from the original, and keep its answers to the golden inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enginery.pipeline.comparison.shapes import Case
from enginery.pipeline.comparison.validation import Validation
from enginery.pipeline.files import pretty_json
from enginery.pipeline.npz import write_npz

FIGURES = "figures.json"


def validate(folder: Path, *, validation: Validation, golden: Sequence[Case]) -> None:
    """Write `figures.json`, and `golden/<case>.npz` with the engine's outputs for the golden cases.

    The engine's faults are figures, which the gates judge; they raise nothing.
    """
    measured = validation.measure()
    (folder / FIGURES).write_text(pretty_json(measured.to_json()))
    (folder / "golden").mkdir()
    if measured.faults:
        return
    for case in golden:
        write_npz(folder / "golden" / f"{case.name}.npz", validation.session.run(validation.shapes.inputs_of(case)))
