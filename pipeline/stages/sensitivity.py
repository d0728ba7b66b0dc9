"""Sensitivity: what each node's quantization does to the outputs, alone and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from enginery.engines.base import Feeds
from enginery.passes.base import OpenModel
from enginery.passes.calibration import Statistics
from enginery.passes.quantize import Policy, QuantizeOptions, measure_sensitivity
from enginery.pipeline.files import pretty_json

RECORD: Final = "sensitivity.json"


def sensitivity(
    folder: Path,
    *,
    model: Path,
    statistics: Path,
    policy: Policy,
    options: QuantizeOptions,
    open_model: OpenModel,
    batches: Callable[[], Iterable[Feeds]],
    progress: Callable[[int, int | None], None],
) -> None:
    """Write `sensitivity.json`: by node the median per-sample SNR in dB, those first whose absence gains most.

    Args:
        folder: empty.
        model: the optimized ONNX file.
        statistics: the folder of its statistics.
        policy: the target's.
        options: the recipe's precision.
        open_model: runs a graph.
        batches: opens the calibration data.
        progress: hears (nodes done, nodes in all).
    """
    found = measure_sensitivity(
        model,
        Statistics.load(statistics),
        policy=policy,
        options=options,
        open_model=open_model,
        batches=batches,
        progress=progress,
    )
    (folder / RECORD).write_text(pretty_json(found.to_json()))
