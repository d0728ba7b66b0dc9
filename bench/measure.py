"""What every benchmark here shares: interleaved timing, ratios with their spread, a table, and a line per ask.

A benchmark never reports a time by itself: machines differ and drift. Candidates run in turns within one process, in
random order, and the result is the ratio to a named baseline, round by round.
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

import numpy as np

from enginery.pipeline.turns import take_turns


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
    """Time the candidates in turns, as the gates do: `enginery.pipeline.turns` says how, and what `clock` is for."""
    order = np.random.default_rng(0)
    seconds = take_turns(list(candidates.values()), order, least=rounds, warmup=warmup, clock=clock)
    return {name: Timing(tuple(map(float, column))) for name, column in zip(candidates, seconds.T, strict=True)}


def ratio(timing: Timing, baseline: Timing) -> Ratio:
    """The ratio of two timings of one `interleaved` run."""
    ratios = [mine / theirs for mine, theirs in zip(timing.seconds, baseline.seconds, strict=True)]
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4)
    return Ratio(median, low, high)


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
