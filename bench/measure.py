"""What every benchmark here shares: interleaved timing, ratios with their spread, a table, and a line per ask.

A benchmark never reports a time by itself: machines differ and drift. Candidates run in turn within one process, in
rotated order, and the result is the ratio to a named baseline, round by round.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from enginery.pipeline.stages.benchmark import BLOCK_SECONDS, let_threads_rest


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry per round, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """Median of the round-by-round ratios, with their quartiles as the spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Ask:
    """One figure that was asked for, and whether it was reached."""

    what: str
    figure: float
    bound: float
    at_least: bool = False

    @property
    def held(self) -> bool:
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'held  ' if self.held else 'missed'} {self.what}: {self.figure:.4g} (asked {sign} {self.bound:g})"


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time the candidates in turn, starting each round with another one.

    With `clock=time.process_time` and one thread the result is processor time, which hardly depends on who else is
    using the machine; with several threads it would count those that only wait.

    Each turn begins when the threads of the candidate before it rest, and with a call that is not timed; then calls are
    timed together until they take about `BLOCK_SECONDS`.
    """
    names = list(candidates)
    repeats: dict[str, int] = {}
    for name in names:
        for _ in range(warmup):
            begin = clock()
            candidates[name]()
            repeats[name] = max(1, round(BLOCK_SECONDS / max(clock() - begin, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            let_threads_rest()
            candidates[name]()
            begin = clock()
            for _ in range(repeats[name]):
                candidates[name]()
            seconds[name].append((clock() - begin) / repeats[name])
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(timing: Timing, baseline: Timing) -> Ratio:
    """The ratio of two timings of one `interleaved` run."""
    ratios = [mine / theirs for mine, theirs in zip(timing.seconds, baseline.seconds, strict=True)]
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4)
    return Ratio(median, low, high)


def peak_mib() -> float:
    """This program's own peak; what `getrusage` says begins with the memory of the program that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="exit 1 if an ask is missed")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and models, under a minute")
    return parser


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print an aligned Markdown table, numbers to four digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    for row in [list(headers), ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")


def conclude(asks: Sequence[Ask], *, check: bool) -> int:
    """Print a line per ask; the exit code of the benchmark."""
    print()
    for ask in asks:
        print(ask)
    return int(check and not all(ask.held for ask in asks))


def machine(*distributions: str) -> str:
    """What a figure depends on: processor, cores and versions."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in distributions)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}"


def print_machine(*distributions: str) -> None:
    """Print the machine, and how busy it is."""
    print(f"load {os.getloadavg()[0]:.2f}; {machine(*distributions)}\n")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
