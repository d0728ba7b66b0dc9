from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from enginery.pipeline import turns
from enginery.pipeline.turns import let_threads_rest, take_turns


@dataclass
class Machine:
    """Stands in for `time`: calls take exactly what they say, and nothing spins."""

    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0

    def call(self, seconds: float, log: list[float]) -> Callable[[], None]:
        def run() -> None:
            log.append(seconds)
            self.sleep(seconds)

        return run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    stand_in = Machine()
    monkeypatch.setattr("enginery.pipeline.turns.time", stand_in)
    return stand_in


def turn(machine: Machine, *seconds: float, **options: float) -> tuple[np.ndarray, list[float]]:
    log: list[float] = []
    calls = [machine.call(each, log) for each in seconds]
    found = take_turns(calls, np.random.default_rng(0), clock=machine.perf_counter, **{"least": 6, **options})
    return found, log


def test_every_call_is_timed_in_every_round(machine: Machine) -> None:
    found, _ = turn(machine, 0.1, 0.3)
    np.testing.assert_allclose(found, [[0.1, 0.3]] * 6)


def test_each_turn_throws_its_first_call_away(machine: Machine) -> None:
    _, log = turn(machine, 0.1, 0.3, warmup=1)
    warm, rounds = log[:2], log[2:]
    assert warm == [0.1, 0.3]
    assert rounds[::2] == rounds[1::2]
    assert len(rounds) == 2 * 2 * 6


def test_a_short_call_is_repeated_for_a_block(machine: Machine) -> None:
    found, log = turn(machine, turns.BLOCK_SECONDS / 10, warmup=1)
    assert len(log) == 1 + 6 * (1 + 10)
    np.testing.assert_allclose(found, turns.BLOCK_SECONDS / 10)


@pytest.mark.parametrize(("calls", "rests"), [((0.1,), 0), ((0.1, 0.3), 12)])
def test_every_turn_waits_until_the_threads_before_it_rest(machine: Machine, calls, rests: int) -> None:
    """A single call follows nothing but itself."""
    begin = machine.now
    _, log = turn(machine, *calls)
    assert machine.now - begin == pytest.approx(sum(log) + rests * turns.LOOK_SECONDS)


def test_the_order_is_mixed_and_follows_the_generator(machine: Machine) -> None:
    _, log = turn(machine, 0.1, 0.2, 0.3, least=20)
    firsts = log[9::6]
    assert set(firsts) == {0.1, 0.2, 0.3}
    assert any(one == two for one, two in pairwise(firsts))
    assert turn(machine, 0.1, 0.2, 0.3, least=20)[1] == log


def test_a_budget_adds_rounds_up_to_a_bound(machine: Machine) -> None:
    alone, _ = turn(machine, 0.1, budget=2.0)
    assert len(alone) == 10
    endless, _ = turn(machine, 0.1, budget=1e9)
    assert len(endless) == turns.MOST
    asked, _ = turn(machine, 0.1, least=turns.MOST + 1)
    assert len(asked) == turns.MOST + 1


def test_rounds_are_heard_of(machine: Machine) -> None:
    heard: list[int] = []
    take_turns([lambda: machine.sleep(1)], np.random.default_rng(0), least=3, heard=heard.append)
    assert heard == [1, 2, 3]


def test_another_clock_may_judge() -> None:
    """A call that waits takes no processor time."""
    found = take_turns([lambda: time.sleep(0.03)], np.random.default_rng(0), least=2, warmup=1, clock=time.process_time)
    assert (found < 0.03).all()


@dataclass
class Clocks:
    """The clocks of a process whose other threads spin, on one core, for some time."""

    spin: float
    now: float = 0.0
    used: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.used += min(seconds, max(0.0, self.spin - self.now))
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.used


@pytest.mark.parametrize(("spin", "least", "most"), [(0.0, 0.0, 0.02), (0.04, 0.04, 0.06), (1e9, 0.5, 0.52)])
def test_a_turn_begins_when_the_threads_of_the_one_before_rest(
    spin: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(spin)
    monkeypatch.setattr("enginery.pipeline.turns.time", clocks)
    let_threads_rest()
    assert least <= clocks.now <= most
