"""Bind: the statistics of the calibrated graph, for the graph that a target was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from enginery.engines.base import Feeds
from enginery.passes.base import OpenModel
from enginery.passes.calibration import Statistics, bind
from enginery.passes.quantize import Policy, QuantizeOptions, needed_tensors
from enginery.pipeline.files import pretty_json

RECORD: Final = "binding.json"


def bind_statistics(
    folder: Path,
    *,
    statistics: Path,
    calibrated: Path,
    model: Path,
    policy: Policy,
    options: QuantizeOptions,
    feeds: Sequence[Feeds],
    batches: Callable[[], Iterable[Feeds]] | None,
    open_model: OpenModel,
    memory_budget: int,
    progress: Callable[[int, int | None], None],
) -> None:
    """Write the statistics of `model` into `folder/statistics`, and `binding.json`: what came from where.

    Args:
        folder: empty.
        statistics: the folder that the calibrate stage wrote.
        calibrated: the ONNX file that was calibrated.
        model: the target's optimized ONNX file.
        policy: the target's, which says what tensors are needed.
        options: the recipe's precision, whose overrides say the same.
        feeds: inputs at several shapes, on which the two graphs are compared.
        batches: opens the calibration data anew, for tensors that the calibrated graph does not have.
        open_model: runs a graph.
        memory_budget: bytes that observed tensors may take at once.
        progress: hears (batches done, batches in all or None) while something is measured.
    """
    bound = bind(
        Statistics.load(statistics),
        calibrated,
        model,
        needed_tensors(model, policy, options),
        feeds=feeds,
        batches=batches,
        open_model=open_model,
        memory_budget=memory_budget,
        progress=progress,
    )
    bound.statistics.save(folder / "statistics")
    record = {
        "taken": len(bound.taken),
        "renamed": {name: origin for name, origin in sorted(bound.taken.items()) if name != origin},
        "measured": [asdict(each) for each in bound.measured],
        "lacking": [asdict(each) for each in bound.lacking],
    }
    (folder / RECORD).write_text(pretty_json(record))
