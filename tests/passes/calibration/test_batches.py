"""Batches that are read once."""

from __future__ import annotations

import numpy as np
import pytest

from enginery.passes.calibration.batches import kept


class Counted:
    """Three batches of 8 bytes each, and how often they were opened."""

    def __init__(self) -> None:
        self.opened = 0

    def __call__(self):
        self.opened += 1
        return ({"x": np.full(1, index, np.int64)} for index in range(3))


@pytest.mark.parametrize(("budget", "opened"), [(16, 1), (15, 4)])
def test_batches_are_read_once_where_they_fit(budget: int, opened: int) -> None:
    source = Counted()
    batches = kept(source, 2, budget)
    for _ in range(3):
        assert [int(feeds["x"][0]) for feeds in batches()] == [0, 1]
    assert source.opened == opened
