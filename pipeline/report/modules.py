"""What the report says of module passes: each step's metric, parameters, size and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from enginery.pipeline.report import CompressionStep, MetricFigures, PassEffect, Speedup
from enginery.pipeline.store import Result

RECORD: Final = "compress.json"


def module_pass_effects(compressed: Result | None) -> Iterator[PassEffect]:
    """The rows of the table of passes; none where the recipe lists no module passes."""
    if compressed is None:
        return
    seconds = compressed.measured.get("pass_seconds", {})
    for number, entry in enumerate(compressed.json(RECORD)["passes"]):
        yield PassEffect(
            stage="compress",
            spec=entry["pass"],
            changed=entry["changed"],
            refusals=tuple(entry["refusals"]),
            details={**entry["details"], "before": entry["before"], "after": entry["after"]},
            seconds=seconds.get(str(number)),
        )


def module_pass_notes(compressed: Result | None) -> Iterator[str]:
    """What a runtime gains, for each pass that says so."""
    for entry in compressed.json(RECORD)["passes"] if compressed is not None else ():
        if "gain" in entry["details"]:
            yield f"{entry['pass']}: {entry['details']['gain']}."


def original_bytes(compressed: Result | None) -> int | None:
    """Bytes of the weights before the first pass."""
    return None if compressed is None else compressed.json(RECORD)["passes"][0]["before"]["bytes"]


def compression_steps(
    compressed: Result | None, engine: str, metric: MetricFigures | None, size: int, speedups: Sequence[Speedup]
) -> Iterator[CompressionStep]:
    """The original, the model after each pass, and the `engine`, whose files have `size` bytes."""
    if compressed is None:
        return
    entries = compressed.json(RECORD)["passes"]
    latency = compressed.measured.get("pass_latency", {})
    first, last = entries[0], latency.get(str(len(entries) - 1))
    yield CompressionStep(
        step="original", metric=_score(first["metric_before"]), **first["before"], latency=1.0 if latency else None
    )
    for number, entry in enumerate(entries):
        figures = entry["after"]
        yield CompressionStep(
            step=entry["pass"], metric=_score(entry["metric_after"]), **figures, latency=latency.get(str(number))
        )
    over_float = next((ratio.speedup for ratio in speedups if ratio.baseline == "float engine"), 1.0)
    yield CompressionStep(
        step=engine,
        metric=None if metric is None else metric.engine,
        macs=entries[-1]["after"]["macs"],
        bytes=size,
        latency=None if last is None else last / over_float,
    )


def _score(value: float | None) -> float | None:
    """Scores of which less is better are kept negated while passes run."""
    return None if value is None else abs(value)
