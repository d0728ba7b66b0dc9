"""The signal-to-noise ratio of samples."""

import numpy as np
import pytest

from enginery.passes.quantize.fidelity import CEILING, sample_snr


def rows(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("expected", "found", "snr"),
    [
        ([3, 4], [3, 4.5], 20.0),
        ([3, 4], [3, 4], CEILING),
        ([0, 0], [0, 0], 0.0),
        ([0, 0], [1, 0], -CEILING),
        ([3, 4], [3, np.nan], -CEILING),
        ([3, 4], [3, np.inf], -CEILING),
        ([3, np.inf], [3, 4], -CEILING),
        ([3, -np.inf], [3, np.inf], -CEILING),
        ([3, -np.inf], [3, -np.inf], CEILING),
        ([3e38, 3e38], [-3e38, 3e38], 10 * np.log10(0.5)),
    ],
)
def test_each_sample_has_a_ratio(expected, found, snr):
    np.testing.assert_allclose(sample_snr(rows(expected), rows(found)), [snr], atol=1e-4)


def test_a_ruined_sample_does_not_hide_behind_a_loud_one():
    expected, found = rows([1000, 0], [1, 0]), rows([1001, 0], [0, 1])
    np.testing.assert_allclose(sample_snr(expected, found), [60.0, 10 * np.log10(0.5)], atol=1e-4)


@pytest.mark.parametrize("padded", [9.0, np.inf, np.nan])
def test_what_stands_at_padded_positions_does_not_count(padded):
    expected, found = rows([[3.0], [4.0]], [[1.0], [padded]]), rows([[3.0], [4.5]], [[1.0], [0.0]])
    valid = np.array([[True, True], [True, False]])
    np.testing.assert_allclose(sample_snr(expected, found, valid), [20.0, CEILING], atol=1e-4)
