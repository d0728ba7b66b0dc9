"""Benchmark: an engine against the float engine of the same target, in turns.

Runs alternate in random order, so that whatever else the machine does hits both, and each begins when the threads of
the one before it rest. Each pair gives one ratio; the result is the median ratio with a bootstrap confidence interval
(percentile method, Efron 1979).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Feeds, Session
from enginery.pipeline.files import pretty_json

FILE: Final = "measured.json"
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
BLOCK_SECONDS: Final = 0.02
"""One measurement repeats the run until it takes about this long: the first runs after a rest are slower."""

LOOK_SECONDS: Final = 0.01
"""How long the process is watched for idleness: systems count the time of other threads by ticks of up to 4 ms."""

IDLE: Final = 0.25
"""The share of a core below which a process counts as idle; a terminal's progress display takes less."""

REST_SECONDS: Final = 0.5
"""Waiting ends here in a process whose threads never rest."""

MIN_PAIRS: Final = 12
TOLD_PAIRS: Final = 6
"""Of the original, whose latency is told and judged by no gate."""

MAX_PAIRS: Final = 200

Seconds = npt.NDArray[np.float64]
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
    seconds = take_turns(sessions, feeds, budget, generator, progress, least=least)
    return Times(seconds[:, 0], seconds[:, 1] if baseline is not None else None)


def take_turns(
    sessions: Sequence[Session],
    feeds: Feeds,
    budget: float,
    generator: np.random.Generator,
    progress: Progress,
    *,
    least: int = MIN_PAIRS,
) -> Seconds:
    """Run any number of sessions in turns, in random order, for `budget` seconds and `least` rounds at least.

    Returns:
        Seconds per run, float64 [rounds, sessions].
    """
    repeats = [_repeats(session, feeds) for session in sessions]
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while len(rounds) < MAX_PAIRS and (len(rounds) < least or time.perf_counter() - begin < budget):
        taken = [0.0] * len(sessions)
        for index in generator.permutation(len(sessions)):
            if len(sessions) > 1:
                let_threads_rest()
            taken[index] = _block(sessions[index], feeds, repeats[index])
        rounds.append(taken)
        progress(len(rounds), None)
    return np.array(rounds)


def let_threads_rest() -> None:
    """Wait until the threads of whatever ran before no longer take a core from what runs next.

    An engine's idle threads spin for a while after each run (ONNX Runtime's for about 40 ms), so that the next run
    finds them awake. Another engine in the same process finds one core fewer: a short run takes up to twice its time.
    """
    end = time.perf_counter() + REST_SECONDS
    while time.perf_counter() < end:
        used, begin = time.process_time(), time.perf_counter()
        time.sleep(LOOK_SECONDS)
        if time.process_time() - used < IDLE * (time.perf_counter() - begin):
            return


def _repeats(session: Session, feeds: Feeds) -> int:
    """How often a block runs the session; two runs warm it up first."""
    session.run(feeds)
    session.run(feeds)
    begin = time.perf_counter()
    session.run(feeds)
    return max(1, round(BLOCK_SECONDS / max(time.perf_counter() - begin, 1e-6)))


def _block(session: Session, feeds: Feeds, repeats: int) -> float:
    """Seconds per run. One run is thrown away: it fills the caches and wakes the engine's own threads."""
    session.run(feeds)
    begin = time.perf_counter()
    for _ in range(repeats):
        session.run(feeds)
    return (time.perf_counter() - begin) / repeats


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
