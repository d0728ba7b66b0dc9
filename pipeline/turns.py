"""Times several calls in turns within one process, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

BLOCK_SECONDS: Final = 0.02
"""One measurement repeats the call until it takes about this long: the first calls after a rest are slower."""

LOOK_SECONDS: Final = 0.01
"""How long the process is watched for idleness: systems count the time of other threads by ticks of up to 4 ms."""

IDLE: Final = 0.25
"""The share of a core below which a process counts as idle; a terminal's progress display takes less."""

REST_SECONDS: Final = 0.5
"""Waiting ends here in a process whose threads never rest."""

MOST: Final = 200
"""Rounds after which no budget asks for more."""

Seconds = npt.NDArray[np.float64]
Call = Callable[[], object]


def take_turns(
    calls: Sequence[Call],
    generator: np.random.Generator,
    *,
    least: int,
    budget: float = 0.0,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    heard: Callable[[int], None] = lambda _rounds: None,
) -> Seconds:
    """Run any number of calls in turns, each round in another random order.

    Each turn begins when the threads of the call before it rest, and with a call that is not timed; then calls are
    timed together until they take about `BLOCK_SECONDS`.

    Args:
        calls: what is timed.
        generator: of the order.
        least: rounds that are run in any case.
        budget: seconds to go on for beyond them, up to `MOST` rounds.
        warmup: calls of each before the first round, at least one; the last says how often a turn repeats the call.
        clock: gives seconds. `time.process_time` hardly depends on who else uses the machine, and is right for one
            thread; of several it counts those that only wait.
        heard: hears how many rounds are done.

    Returns:
        Seconds per call, float64 [rounds, calls].
    """
    repeats = [_repeats(call, warmup, clock) for call in calls]
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while len(rounds) < least or (len(rounds) < MOST and time.perf_counter() - begin < budget):
        taken = [0.0] * len(calls)
        for index in generator.permutation(len(calls)):
            if len(calls) > 1:
                let_threads_rest()
            taken[index] = _block(calls[index], repeats[index], clock)
        rounds.append(taken)
        heard(len(rounds))
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


def _repeats(call: Call, warmup: int, clock: Callable[[], float]) -> int:
    """How often a turn repeats the call."""
    for _ in range(warmup - 1):
        call()
    begin = clock()
    call()
    return max(1, round(BLOCK_SECONDS / max(clock() - begin, 1e-6)))


def _block(call: Call, repeats: int, clock: Callable[[], float]) -> float:
    """Seconds per call. One call is thrown away: it fills the caches and wakes the engine's own threads."""
    call()
    begin = clock()
    for _ in range(repeats):
        call()
    return (clock() - begin) / repeats
