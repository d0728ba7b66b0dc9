"""Benchmark: an engine against the float engine of the same target, in turns.

Each pair of turns gives one ratio; the result is the median ratio with a bootstrap confidence interval (percentile
method, Efron 1979).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from enginery.engines.base import Feeds, Session
from enginery.pipeline.files import pretty_json
from enginery.pipeline.turns import Seconds, take_turns

FILE: Final = "measured.json"
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
MIN_PAIRS: Final = 12
TOLD_PAIRS: Final = 6
"""Of the original, whose latency is told and judged by no gate."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Times:
    """Seconds per run of both, pair by pair."""

    candidate: Seconds
    baseline: Seconds | None


def benchmark(
    folder: Path,
    *,
    candidate: Session,
    baseline: Session | None,
    original: Session | None,
    feeds: Feeds,
    case: str,
    budget: float,
    seed: int,
    progress: Progress,
) -> None:
    """Write `measured.json`: latencies in seconds, and the speed-up where there is a baseline.

    Args:
        folder: empty.
        candidate: the engine.
        baseline: the float engine of the same target; None when the candidate is that engine.
        original: the original in its own framework; None where it has none. It runs in turns with the candidate, after
            the baseline did where there is one: it disturbs no gate.
        feeds: inputs at the optimal shape.
        case: what the feeds are, for the report.
        budget: seconds to measure for where there is a baseline, a third of it for anything else; at least `MIN_PAIRS`
            pairs are run all the same, and `TOLD_PAIRS` of the original.
        seed: of the order and the resampling.
        progress: hears (pairs done, None).
    """
    generator = np.random.default_rng(seed)
    record: dict[str, Any] = {
        "case": case,
        **dict.fromkeys(("candidate", "baseline", "speed", "original", "against_original")),
    }
    # Only what a gate asks about is measured for the whole budget.
    if baseline is not None or original is None:
        judged = budget if baseline is not None else budget / 3
        times = measure(candidate, baseline, feeds, judged, generator, progress)
        record["candidate"] = summarize(times.candidate)
        if times.baseline is not None:
            record["baseline"] = summarize(times.baseline)
            record["speed"] = speed_figures(times.baseline / times.candidate, generator)
    if original is not None:
        times = measure(candidate, original, feeds, budget / 3, generator, progress, least=TOLD_PAIRS)
        assert times.baseline is not None
        record["candidate"] = record["candidate"] or summarize(times.candidate)
        record["original"] = summarize(times.baseline)
        record["against_original"] = speed_figures(times.baseline / times.candidate, generator)
    (folder / FILE).write_text(pretty_json(record))


def measure(
    candidate: Session,
    baseline: Session | None,
    feeds: Feeds,
    budget: float,
    generator: np.random.Generator,
    progress: Progress,
    *,
    least: int = MIN_PAIRS,
) -> Times:
    """Run both in turns for `budget` seconds, and `least` times at least."""
    sessions = [candidate] if baseline is None else [candidate, baseline]
    calls = [partial(session.run, feeds) for session in sessions]
    seconds = take_turns(calls, generator, budget=budget, least=least, heard=lambda rounds: progress(rounds, None))
    return Times(seconds[:, 0], seconds[:, 1] if baseline is not None else None)


def device_times(session: Session, feeds: Feeds, runs: int) -> Seconds | None:
    """Seconds of each run by the device's own events, copies left out; None where the processor does the work."""
    taken: list[float] = []
    for _ in range(runs):
        session.run(feeds)
        if session.device_milliseconds is None:
            return None
        taken.append(session.device_milliseconds / 1e3)
    return np.array(taken)


def speed_figures(ratios: Seconds, generator: np.random.Generator) -> dict[str, Any]:
    """Median of the paired ratios (baseline over candidate) and the bootstrap interval of that median."""
    chosen = generator.integers(0, len(ratios), (RESAMPLES, len(ratios)))
    medians = np.median(ratios[chosen], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return {
        "speedup": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "confidence": CONFIDENCE,
        "pairs": len(ratios),
    }


def summarize(seconds: Seconds) -> dict[str, float | int]:
    """Median and 10th and 90th percentile of `seconds`, and their number."""
    quantiles = np.quantile(seconds, [0.1, 0.5, 0.9])
    p10, median, p90 = map(float, quantiles)
    return {"p10": p10, "median": median, "p90": p90, "runs": len(seconds)}
