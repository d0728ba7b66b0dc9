"""Histograms whose bins are the upper half of a float32."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enginery.passes.calibration.histogram import Histogram, bin_edges, count_values, distribution

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


def of(*values):
    return Histogram.of(count_values(np.array(values, np.float32)))


@given(FLOATS)
def test_every_value_lies_in_its_bin(values):
    found = of(*values)
    assert found.counts.sum() == len(values)
    for value in np.array(values, np.float32):
        single = of(value)
        (inner,), (outer,) = bin_edges(single.bins)
        assert abs(inner) <= abs(value) <= abs(outer)
        assert single.bins[0] in found.bins


@given(FLOATS, FLOATS)
def test_histograms_add_up(one, other):
    assert of(*one).merge(of(*other)) == of(*one, *other) == of(*other).merge(of(*one))


def test_what_was_not_recorded_of_a_part_is_not_known_of_the_whole():
    assert not of(1.0).merge(Histogram.none())
    assert not Histogram.none().merge(of(1.0))


@given(FLOATS)
def test_a_rectified_histogram_is_that_of_the_rectified_values(values):
    rectified = np.maximum(np.array(values, np.float32), 0)
    assert of(*values).rectified() == of(*(rectified + np.float32(0)))  # without -0, which has a bin of its own


def test_bins_outside_a_range_are_left_out():
    found = of(-3.0, -1.0, 0.0, 1.0, 3.0).within(-1.0, 1.0)
    assert found == of(-1.0, 0.0, 1.0)


def test_infinities_and_nan_are_no_part_of_the_distribution():
    centres, counts = distribution(of(-2.0, np.inf, np.nan, -np.inf, 0.0, 0.0))
    np.testing.assert_allclose(centres, [-2.0, 0.0], rtol=1 / 128)
    assert counts.tolist() == [1, 2]
