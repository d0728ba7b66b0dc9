"""Is batching worth waiting for? The engine's latency by batch size, and what a server should make of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enginery.engines.base import Feeds, Session
from enginery.pipeline.comparison.shapes import fit, sizes_of

WORTHWHILE: Final = 1.1
"""Batching must raise throughput by this factor over single requests; below it a queue only adds latency."""

NEAR_BEST: Final = 0.95
"""The smallest batch that reaches this share of the best throughput is the one to wait for."""

MAX_DELAY_US: Final = 10_000


@dataclass(frozen=True)
class BatchPoint:
    """Median seconds of one run at a batch size."""

    batch: int
    seconds: float

    @property
    def throughput(self) -> float:
        """Samples per second."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class BatchPlan:
    """What the curve says: the batch size to prefer and the longest wait for it, or that batching is not worth it."""

    curve: tuple[BatchPoint, ...]
    preferred: int | None
    delay_us: int
    words: str


def batch_sizes(smallest: int, largest: int) -> tuple[int, ...]:
    """The powers of two in the range, and its ends."""
    powers = {1 << power for power in range(largest.bit_length())}
    return tuple(sorted({size for size in powers if smallest <= size <= largest} | {smallest, largest}))


def measure(
    session: Session, feeds: Feeds, dim: str, sizes: Sequence[int], *, seconds: float = 0.3, most: int = 100
) -> tuple[BatchPoint, ...]:
    """Time the engine at each batch size, in turns, so that a machine that slows down slows all sizes alike.

    Args:
        session: the engine.
        feeds: real inputs of any batch size; they are cut or repeated along `dim`.
        dim: the name of the batch dimension.
        sizes: the batch sizes.
        seconds: how long to measure each size, after one warm-up run.
        most: runs per size at most.
    """
    present = sizes_of(feeds, session.inputs)
    inputs = {size: fit(feeds, session.inputs, {**present, dim: size}) for size in sizes}
    for size in sizes:
        session.run(inputs[size])
    times: dict[int, list[float]] = {size: [] for size in sizes}
    open_sizes = list(sizes)
    while open_sizes:
        for size in list(open_sizes):
            begin = time.perf_counter()
            session.run(inputs[size])
            times[size].append(time.perf_counter() - begin)
            if sum(times[size]) >= seconds or len(times[size]) >= most:
                open_sizes.remove(size)
    return tuple(BatchPoint(size, statistics.median(times[size])) for size in sizes)


def plan(curve: Sequence[BatchPoint]) -> BatchPlan:
    """Choose from a curve of at least one point, smallest batch first.

    The smallest batch near the best throughput is preferred. A request waits for others at most as long as half a run
    of one sample takes: a longer wait would cost a lone request more than it can gain.
    """
    points = tuple(sorted(curve, key=lambda point: point.batch))
    first = points[0]
    best = max(point.throughput for point in points)
    gain = best / first.throughput
    if len(points) == 1 or gain < WORTHWHILE:
        words = f"no dynamic batching: larger batches raise throughput {gain:.2f} times only"
        return BatchPlan(points, None, 0, words)
    chosen = next(point for point in points if point.throughput >= NEAR_BEST * best)
    delay = min(MAX_DELAY_US, max(1, round(first.seconds * 1e6 / 2)))
    words = (
        f"dynamic batching: batch {chosen.batch} gives {chosen.throughput / first.throughput:.2f} times the throughput "
        f"of batch {first.batch}; a request waits {delay} us at most"
    )
    return BatchPlan(points, chosen.batch, delay, words)


def to_json(batching: BatchPlan) -> Mapping[str, object]:
    return {
        "words": batching.words,
        "preferred": batching.preferred,
        "delay_us": batching.delay_us,
        "curve": [{"batch": point.batch, "seconds": point.seconds} for point in batching.curve],
    }
