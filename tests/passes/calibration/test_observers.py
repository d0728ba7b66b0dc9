"""Observers read ranges from one and the same statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import StatisticsError, UsageError
from enginery.passes.calibration import make_observer
from enginery.passes.calibration.histogram import Histogram, bin_edges, count_values, distribution
from enginery.passes.calibration.observers.entropy import Entropy, divergences
from enginery.passes.calibration.observers.mse import grid_error
from enginery.passes.calibration.tensor_statistics import TensorStatistics, observe


def seen(values: np.ndarray, *, histograms: bool = True) -> TensorStatistics:
    found = observe(values.astype(np.float32), histograms=histograms)
    assert found is not None
    return found


def normal_with_outlier() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((1000, 64))
    values[0, 0] = 100.0
    return values


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=50))
def test_every_value_lies_between_the_edges_of_its_bin(values: list[float]) -> None:
    array = np.array(values, np.float32)
    (bins,) = np.nonzero(count_values(array))
    inner, outer = bin_edges(bins)
    low, high = np.minimum(inner, outer), np.maximum(inner, outer)
    assert all(np.any((low <= value) & (value <= high)) for value in array.astype(np.float64))


def test_the_distribution_is_ascending_and_complete() -> None:
    values = normal_with_outlier()
    centres, counts = distribution(Histogram.of(count_values(values)))
    assert counts.sum() == values.size
    assert (np.diff(centres) > 0).all()
    assert centres @ counts / counts.sum() == pytest.approx(values.mean(), abs=0.01)


def test_minmax_is_exact_and_moving_average_is_the_mean_of_the_batches() -> None:
    first, second = seen(np.array([[-1.0, 2.0]])), seen(np.array([[-3.0, 4.0]]))
    merged = first.merge(second)
    assert make_observer("minmax").range(merged) == (-3.0, 4.0)
    assert make_observer("moving-average").range(merged) == (-2.0, 3.0)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_agrees_with_numpy(percentile: float) -> None:
    values = normal_with_outlier()
    low, high = make_observer("percentile", percentile).range(seen(values))
    tail = (100 - percentile) / 2
    assert low == pytest.approx(np.percentile(values, tail), rel=0.02)
    assert high == pytest.approx(np.percentile(values, 100 - tail), rel=0.02)


@pytest.mark.parametrize("name", ["entropy", "percentile"])
def test_an_outlier_is_cut_off(name: str) -> None:
    low, high = make_observer(name).range(seen(normal_with_outlier()))
    assert -8 < low < -2
    assert 2 < high < 40


def test_mse_is_no_worse_than_any_coarser_search() -> None:
    values = normal_with_outlier().astype(np.float32).astype(np.float64).reshape(-1)
    weights = np.full(len(values), 1 / len(values))
    low, high = make_observer("mse").range(seen(values.reshape(1000, 64)))
    found = grid_error(values, weights, low, high, 256)
    assert all(found <= 1.05 * grid_error(values, weights, -r, r, 256) for r in (3.0, 4.0, 5.0, 10.0, 50.0, 100.0))


def test_entropy_keeps_a_uniform_distribution_whole_and_ignores_zeros() -> None:
    uniform = np.random.default_rng(0).uniform(-1, 1, (1000, 64))
    _, high = Entropy().range(seen(uniform))
    assert high > 0.9
    sparse = np.where(np.random.default_rng(1).random(uniform.shape) < 0.9, 0, uniform)
    assert Entropy().range(seen(sparse))[1] > 0.9


def divergence(histogram: np.ndarray, length: int, levels: int) -> float:
    """KL(P || Q) as the slides define it, bin by bin."""
    p = histogram[:length].copy()
    p[-1] += histogram[length:].sum()
    q = np.zeros(length)
    for level in range(levels):
        group = slice(level * length // levels, (level + 1) * length // levels)
        occupied = histogram[group] > 0
        q[group] = np.where(occupied, histogram[group].sum() / max(occupied.sum(), 1), 0.0)
    if q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-12)
    return float(p[p > 0] @ np.log(p[p > 0] / q[p > 0]))


@pytest.mark.parametrize("spread", ["dense", "sparse", "ends"])
def test_the_divergence_is_the_one_of_the_definition(spread: str) -> None:
    histogram = np.random.default_rng(0).geometric(0.01, 64).astype(np.float64)
    if spread == "sparse":
        histogram[np.random.default_rng(1).random(64) < 0.7] = 0
    if spread == "ends":
        histogram[1:-1] = 0
    thresholds = np.arange(8, 65)
    expected = [divergence(histogram, int(length), 8) for length in thresholds]
    np.testing.assert_allclose(divergences(histogram, thresholds, 8), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["entropy", "mse", "percentile"])
def test_statistics_without_histograms_are_refused(name: str) -> None:
    with pytest.raises(StatisticsError, match=f"Observer '{name}' reads histograms"):
        make_observer(name).range(seen(np.ones((2, 2)), histograms=False))


@pytest.mark.parametrize("name", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_a_tensor_of_zeros_has_a_range(name: str) -> None:
    low, high = make_observer(name).range(seen(np.zeros((3, 4))))
    assert low <= 0 <= high


def test_an_unknown_observer_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="available: minmax, moving-average, percentile, entropy, mse"):
        make_observer("median")


def test_not_finite_values_are_noticed() -> None:
    assert not seen(np.array([[1.0, np.inf]])).finite
    assert not seen(np.array([[1.0, np.nan]])).finite


def test_channels_follow_the_layout() -> None:
    images = seen(np.random.default_rng(0).standard_normal((2, 3, 4, 5)))
    tokens = seen(np.random.default_rng(0).standard_normal((2, 4, 6)))
    assert (images.axis, len(images.channel_low)) == (1, 3)
    assert (tokens.axis, len(tokens.channel_low)) == (2, 6)
    assert images.energy.counts.sum() == 2
    assert tokens.energy.counts.sum() == 8


def test_scaling_keeps_ranges_exact_and_drops_what_it_cannot_know() -> None:
    values = np.random.default_rng(0).standard_normal((50, 4))
    factors = np.array([1.0, 2.0, 0.5, 4.0])
    scaled, direct = seen(values).scaled(factors), seen(values * factors)
    assert scaled.high == pytest.approx(direct.high, rel=1e-6)
    np.testing.assert_allclose(scaled.channel_mean, direct.channel_mean, rtol=1e-4, atol=1e-6)
    assert not scaled.histogram
