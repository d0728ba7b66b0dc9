"""Integer grids: what they must be able to represent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.passes.quantize.grid import LIMITS, Grid, activation_grid, weight_grid

ENDS = st.floats(-1e6, 1e6, width=32)
DTYPES = st.sampled_from(["int8", "uint8"])


@given(ENDS, ENDS, DTYPES, st.booleans())
def test_zero_and_the_whole_range_are_on_the_grid(one: float, other: float, dtype: str, symmetric: bool) -> None:
    low, high = min(one, other), max(one, other)
    if symmetric and dtype == "uint8":
        low, high = abs(low), abs(low) + abs(high)  # a symmetric grid is unsigned where nothing is negative
    grid = activation_grid(low, high, dtype, symmetric=symmetric)
    least, most = LIMITS[dtype]
    assert least <= int(grid.zero_point) <= most
    assert not symmetric or int(grid.zero_point) == 0
    assert grid.scale > 0
    ends = np.array([0.0, low, high])
    error = np.abs(grid.round_trip(ends) - ends)
    assert error[0] == 0
    assert (error <= grid.scale.astype(np.float64) * 0.51 + 1e-30).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 1e-42), (-1e-44, 1e-44)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_tensor_of_nothing_has_a_scale_that_runtimes_take(low: float, high: float, symmetric: bool) -> None:
    grid = activation_grid(low, high, "int8", symmetric=symmetric)
    assert (float(grid.scale), int(grid.zero_point)) == (1.0, 0)


def test_a_range_on_one_side_of_zero_reaches_to_it() -> None:
    grid = activation_grid(2.0, 5.1, "uint8", symmetric=False)
    assert (float(grid.scale), int(grid.zero_point)) == (pytest.approx(0.02), 0)
    grid = activation_grid(-5.1, -2.0, "uint8", symmetric=False)
    assert (float(grid.scale), int(grid.zero_point)) == (pytest.approx(0.02), 255)


def test_values_outside_saturate_and_ties_go_to_even() -> None:
    grid = Grid(np.float32(2.0).reshape(()), np.array(10), "uint8")
    assert grid.quantize(np.array([1.0, 3.0, -1e9, 1e9])).tolist() == [10, 12, 0, 255]


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_weight_has_a_scale_for_each_channel(axis: int | None) -> None:
    weight = np.array([[1.0, -127.0, 0.0], [2.0, 254.0, 0.0]], np.float32)
    grid = weight_grid(weight, axis)
    expected = {0: [1.0, 2.0], 1: [2 / 127, 2.0, 1.0], None: 2.0}[axis]
    np.testing.assert_allclose(grid.scale, expected, rtol=1e-6)
    assert np.abs(grid.round_trip(weight) - weight).max() <= grid.scale.max() / 2
    assert grid.quantize(weight).min() >= -127
