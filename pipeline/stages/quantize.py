"""Quantize: put Q/DQ pairs into the optimized graph, where the target's policy wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from enginery.engines.base import Feeds
from enginery.passes.base import OpenModel
from enginery.passes.calibration import Statistics
from enginery.passes.quantize import Policy, QuantizeOptions, quantize_model
from enginery.pipeline.files import pretty_json

RECORD = "quantize.json"


def quantize(
    folder: Path,
    *,
    model: Path,
    statistics: Path | None,
    policy: Policy,
    options: QuantizeOptions,
    open_model: OpenModel,
    batches: Callable[[], Iterable[Feeds]] | None,
) -> None:
    """Write `model/model.onnx`, and `quantize.json` with what was quantized, what was not, and why.

    Args:
        folder: empty.
        model: the optimized ONNX file.
        statistics: the folder that the calibrate stage wrote; None for modes that need none.
        policy: the target's.
        options: the recipe's precision.
        open_model: runs a graph, for remedies that are chosen by measurement.
        batches: opens the calibration data, for the same.
    """
    (folder / "model").mkdir()
    result = quantize_model(
        model,
        folder / "model" / "model.onnx",
        Statistics.load(statistics) if statistics is not None else None,
        policy=policy,
        options=options,
        open_model=open_model,
        batches=batches,
    )
    record = {
        "policy": policy.name,
        "options": asdict(options),
        "changed": result.changed,
        "refusals": [asdict(refusal) for refusal in result.refusals],
        "details": dict(result.details),
    }
    (folder / RECORD).write_text(pretty_json(record))
