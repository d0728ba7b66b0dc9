"""The report of a bundle whose waiting gates were completed on another machine than the one that built it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginery.pipeline.bundle.manifest import GateVerdict
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.recipe import Recipe
from enginery.pipeline.report import Report, StageTime
from enginery.pipeline.report.gather import NOT_RUN, accuracy_of, latencies_of, speedups_of


def completed_report(
    report: Report,
    recipe: Recipe,
    measured: Measured,
    verdicts: Sequence[GateVerdict],
    timed: Mapping[str, Any],
    stages: Sequence[StageTime],
) -> Report:
    """The report with what was measured where the engine runs, in place of what the graph had shown.

    Args:
        report: of the build that deferred its gates.
        recipe: the recipe of both.
        measured: the engine's figures; its own account of its kernels replaces the builder's, where it gives one.
        verdicts: of every gate, with timings.
        timed: what the benchmark stage wrote.
        stages: what ran here, appended to the stages of the build.
    """
    says = measured.session
    where = ", ".join(f"{key} {says[key]}" for key in ("runtime", "version", "device", "provider") if key in says)
    notes = [note for note in report.notes if not note.startswith(NOT_RUN)]
    return report.model_copy(
        update={
            "complete_with": None,
            "gates": tuple(verdicts),
            "allowed": tuple(verdict.gate for verdict in verdicts if verdict.verdict == "allowed"),
            "notes": (*notes, f"Built where the engine cannot run; its gates were completed on {where}."),
            "latencies": tuple(latencies_of(timed)),
            "speedups": tuple(speedups_of(timed)),
            "kernels": dict(measured.kernels) or report.kernels,
            "stages": (*report.stages, *stages),
            **accuracy_of(recipe, measured),
        }
    )
