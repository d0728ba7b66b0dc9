"""Times finished bundles on their golden inputs: one alone, or two in turns.

Two bundles are compared in one process, run by run in random order, as a build does it: what else the machine does
hits both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from enginery.errors import UsageError
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.manifest import GoldenCase
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.npz import read_npz
from enginery.pipeline.report import Latency, Speedup
from enginery.pipeline.stages.benchmark import device_times, measure, speed_figures, summarize

DEVICE_RUNS: Final = 50
"""Runs that are timed by the device's own events, where it has any."""


@dataclass(frozen=True)
class CaseTimes:
    """The latencies at one golden case; with a second bundle, how many times faster the first is than it."""

    latencies: tuple[Latency, ...]
    speedup: Speedup | None


def benchmark_bundles(
    bundle: Path,
    against: Path | None = None,
    *,
    cases: tuple[str, ...] = (),
    seconds: float = 5.0,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] = lambda _case, _pairs: None,
) -> Iterator[CaseTimes]:
    """Yield the times of each case.

    Args:
        bundle: is timed.
        against: a second bundle of the same model, timed in turns with the first.
        cases: names of golden cases (default: all that the bundle carries).
        seconds: to measure each case for.
        threads: threads of both runtimes.
        options: further options of the first bundle's engine; the second runs as it was built.
        seed: of the order of runs and of the interval's resampling.
        progress: hears (case, pairs done).

    Raises:
        UsageError: a case is unknown, or the two bundles take different inputs.
        IntegrityError, EngineError: a bundle does not verify, or cannot run here.
    """
    first = Bundle.open(bundle)
    chosen = _choose(first, cases)
    with ExitStack() as stack:
        session = stack.enter_context(open_session(bundle, threads=threads, options=options))
        other = None
        if against is not None:
            _check_inputs(first, Bundle.open(against))
            other = stack.enter_context(open_session(against, threads=threads))
        for case in chosen:
            feeds = read_npz(bundle / case.inputs)
            generator = np.random.default_rng(seed)
            name = case.name

            def hear(done: int, _total: int | None, name: str = name) -> None:
                progress(name, done)

            times = measure(session, other, feeds, seconds, generator, hear)
            latencies = [_latency(str(bundle), name, times.candidate)]
            if (device := device_times(session, feeds, DEVICE_RUNS)) is not None:
                latencies.append(_latency(f"{bundle} (on the device, without copies)", name, device))
            speedup = None
            if times.baseline is not None:
                latencies.append(_latency(str(against), name, times.baseline))
                figures = speed_figures(times.baseline / times.candidate, generator)
                speedup = Speedup.model_validate({"baseline": str(against), **figures})
            yield CaseTimes(tuple(latencies), speedup)


def _choose(bundle: Bundle, names: tuple[str, ...]) -> list[GoldenCase]:
    found = {case.name: case for case in bundle.manifest.golden}
    if unknown := [name for name in names if name not in found]:
        raise UsageError(f"{bundle.path} has no golden case {unknown[0]!r}. It has: {', '.join(found)}.")
    return [found[name] for name in names or found]


def _check_inputs(first: Bundle, second: Bundle) -> None:
    if set(first.spec.inputs) != set(second.spec.inputs):
        raise UsageError(
            f"{first.path} takes {', '.join(map(str, first.spec.inputs))}; {second.path} takes "
            f"{', '.join(map(str, second.spec.inputs))}. Compare two bundles of one model."
        )


def _latency(subject: str, case: str, seconds: np.ndarray) -> Latency:
    times = summarize(seconds)
    return Latency(
        subject=subject,
        case=case,
        median_ms=1e3 * times["median"],
        low_ms=1e3 * times["p10"],
        high_ms=1e3 * times["p90"],
        runs=int(times["runs"]),
    )
