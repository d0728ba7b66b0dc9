from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from enginery.engines.base import Arrays, Feeds, Session, TensorSpec
from enginery.pipeline.stages.benchmark import (
    MIN_PAIRS,
    TOLD_PAIRS,
    benchmark,
    device_times,
    speed_figures,
)

X = TensorSpec("x", "float32", ("batch",))
FEEDS = {"x": np.zeros(2, np.float32)}


class Sleeper(Session):
    """A session that takes a known time, and writes down that it ran."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        super().__init__((X,), (X,), {})
        self._name, self._seconds, self._log = name, seconds, log

    def _run(self, feeds: Feeds) -> Arrays:
        self._log.append(self._name)
        time.sleep(self._seconds)
        return dict(feeds)

    def describe(self) -> dict[str, Any]:
        return {"runtime": "sleep"}


def _measured(
    folder: Path, candidate: float, baseline: float | None, original: float | None = None
) -> tuple[dict[str, Any], list[str]]:
    log: list[str] = []
    benchmark(
        folder,
        candidate=Sleeper("candidate", candidate, log),
        baseline=None if baseline is None else Sleeper("baseline", baseline, log),
        original=None if original is None else Sleeper("original", original, log),
        feeds=FEEDS,
        case="opt (batch=2)",
        budget=0.0,
        seed=0,
        progress=lambda *_: None,
    )
    return json.loads((folder / "measured.json").read_text()), log


def test_the_ratio_of_two_known_times_is_found(tmp_path: Path) -> None:
    found, _ = _measured(tmp_path, 0.005, 0.02)
    speed = found["speed"]
    assert speed["pairs"] == MIN_PAIRS
    assert speed["low"] <= speed["speedup"] <= speed["high"]
    assert speed["speedup"] > 1.5  # 4 on a machine with nothing else to do
    assert found["case"] == "opt (batch=2)"
    assert found["candidate"]["p10"] <= found["candidate"]["median"] <= found["candidate"]["p90"]


def test_without_a_baseline_latencies_alone_are_measured(tmp_path: Path) -> None:
    found, log = _measured(tmp_path, 0.001, None)
    assert found["speed"] is None
    assert found["baseline"] is None
    assert found["candidate"]["runs"] == MIN_PAIRS
    assert set(log) == {"candidate"}


def test_the_original_runs_after_the_gate_was_measured(tmp_path: Path) -> None:
    found, log = _measured(tmp_path, 0.002, 0.002, 0.008)
    assert found["against_original"]["speedup"] > 1.5
    assert found["original"]["runs"] == TOLD_PAIRS
    assert log.index("original") > max(index for index, name in enumerate(log) if name == "baseline")


def test_with_no_gate_to_ask_the_engine_is_timed_beside_the_original_alone(tmp_path: Path) -> None:
    found, log = _measured(tmp_path, 0.002, None, 0.008)
    assert found["speed"] is None
    assert found["candidate"]["runs"] == found["original"]["runs"] == found["against_original"]["pairs"] == TOLD_PAIRS
    # Two warm-ups and one timed run come first, then blocks with a run that is thrown away.
    assert log.count("original") <= 3 + TOLD_PAIRS * (1 + 3)


def test_runs_alternate_in_an_order_that_is_mixed(tmp_path: Path) -> None:
    _, log = _measured(tmp_path, 0.005, 0.005)
    # Two warm-ups and one timed run of each come first; then pairs of blocks, each with a run that is thrown away.
    order = log[6:]
    changes = sum(one != two for one, two in pairwise(order))
    assert changes >= MIN_PAIRS
    assert order.count("candidate") >= 2 * MIN_PAIRS


def test_the_interval_is_that_of_the_median() -> None:
    generator = np.random.default_rng(0)
    ratios = generator.normal(1.5, 0.1, 400)
    figures = speed_figures(ratios, generator)
    assert figures["low"] < 1.5 < figures["high"]
    assert figures["high"] - figures["low"] < 0.05
    constant = speed_figures(np.full(20, 2.0), generator)
    assert (constant["low"], constant["speedup"], constant["high"]) == (2.0, 2.0, 2.0)


def test_one_outlier_moves_the_figure_little() -> None:
    generator = np.random.default_rng(0)
    ratios = np.full(21, 1.2)
    ratios[7] = 50.0
    assert speed_figures(ratios, generator)["high"] == 1.2


class OnDevice(Sleeper):
    """A session that says how long each run took on its device."""

    def _run(self, feeds: Feeds) -> Arrays:
        answer = super()._run(feeds)
        self.device_milliseconds = float(len(self._log))
        return answer


def test_a_devices_own_times_are_collected_run_by_run() -> None:
    found = device_times(OnDevice("gpu", 0, []), FEEDS, 3)
    assert found is not None
    np.testing.assert_allclose(found, [0.001, 0.002, 0.003])


def test_a_session_on_the_processor_has_no_times_of_a_device() -> None:
    log: list[str] = []
    assert device_times(Sleeper("cpu", 0, log), FEEDS, 50) is None
    assert log == ["cpu"]
