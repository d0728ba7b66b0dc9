"""Statistics drawn in the terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from enginery.passes.calibration import Statistics
from enginery.passes.calibration.histogram import Histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics, observe
from enginery.pipeline.report.ranges import WIDTH, drawing, outliers, range_lines


def seen(values: np.ndarray) -> TensorStatistics:
    found = observe(values.astype(np.float32).reshape(-1, 1))
    assert found is not None
    return found


NORMAL = seen(np.random.default_rng(0).standard_normal(10_000))
SPIKE = seen(np.append(np.random.default_rng(0).standard_normal(10_000), 300.0))
NONE = Histogram.none()


def test_zero_is_in_the_middle_and_a_bell_is_highest_there() -> None:
    drawn = drawing(NORMAL)
    assert len(drawn) == WIDTH + 2
    assert "█" in drawn[WIDTH // 2 : WIDTH // 2 + 2]
    assert drawn[1] in " ▁▂"


def test_values_that_are_all_positive_leave_the_left_half_empty() -> None:
    assert drawing(seen(np.linspace(0.1, 5, 100)))[1 : 1 + WIDTH // 2].strip() == ""


def test_an_outlier_leaves_the_bulk_in_the_middle_and_comes_first() -> None:
    assert outliers(SPIKE) == pytest.approx(300 / 3.3, rel=0.1)
    assert drawing(SPIKE)[1:].split()[0] == "██"
    lines = list(range_lines(Statistics("g", ("b",), 2, {"calm": NORMAL, "spike": SPIKE}), 30))
    assert [line.split()[0] for line in lines] == ["tensor", "spike", "calm"]


def test_without_a_histogram_the_range_is_drawn() -> None:
    half = replace(NORMAL, low=0.0, high=2.0, histogram=NONE)
    assert drawing(half) == "|" + " " * (WIDTH // 2) + "-" * (WIDTH // 2) + "|"


def test_what_cannot_be_drawn_says_why() -> None:
    assert drawing(seen(np.zeros(4))) == "always zero"
    assert drawing(replace(NORMAL, finite=False)) == "not finite"


def test_a_long_list_ends_with_how_many_are_left() -> None:
    statistics = Statistics("g", ("b",), 2, {f"t{index}": NORMAL for index in range(5)})
    assert list(range_lines(statistics, 3))[-1] == "and 2 more; --json lists them"
    assert list(range_lines(Statistics("g", (), 0), 3)) == []
