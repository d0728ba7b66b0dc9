import numpy as np
import pytest

from enginery.errors import PassError
from enginery.passes.difference import ROUNDING, Difference, measure, worst_differences


def floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("expected", "actual", "absolute", "relative"),
    [
        (floats(1, -4), floats(1, -4), 0.0, 0.0),
        (floats(1, -4), floats(2, -4), 1.0, 0.25),
        (floats(np.nan, np.inf, 2), floats(np.nan, np.inf, 2), 0.0, 0.0),
        (floats(0, 0), floats(0, 1), 1.0, np.inf),
    ],
)
def test_errors_are_relative_to_the_largest_value(expected, actual, absolute, relative):
    found = measure("y", expected, actual)
    assert (found.absolute, found.relative) == (absolute, relative)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (floats(1, 2), floats(1, np.nan)),
        (floats(1, np.nan), floats(1, 2)),
        (floats(1, np.inf), floats(1, 2)),
        (floats(1, 2), floats(1, np.inf)),
        (floats(1, np.inf), floats(1, -np.inf)),
        (floats(1, np.nan), floats(1, np.inf)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True, False]), np.array([True, True])),
    ],
)
def test_what_is_no_number_or_must_be_exact_differs_without_bound(expected, actual):
    assert not measure("y", expected, actual).within(1.0)


@pytest.mark.parametrize("actual", [floats(1), floats(1, 2).astype(np.float64), [floats(1, 2)]])
def test_another_shape_or_type_is_an_error(actual):
    with pytest.raises(PassError, match=r"Output 'y' was float32\[2\]"):
        measure("y", floats(1, 2), actual)


def test_sequences_and_maps_are_compared_element_by_element():
    assert measure("y", [floats(1), floats(2)], [floats(1), floats(4)]).relative == 1.0
    assert measure("y", {"a": floats(1)}, {"a": floats(1)}).relative == 0.0
    assert measure("y", ["a"], ["b"]).relative == np.inf


def test_one_rounding_is_allowed_only_where_some_error_is():
    tiny = Difference("y", ROUNDING, 1e-3)
    assert tiny.within(1e-5)
    assert not tiny.within(0.0)
    assert not Difference("y", 2 * ROUNDING, 1e-3).within(1e-5)


def test_the_worst_of_several_answers_counts_by_output():
    expected = {"y": floats(1, 2), "z": floats(3)}
    good, bad = (expected, expected), (expected, {**expected, "y": floats(1, 3)})
    for answers in ([good, bad], [bad, good]):
        assert {each.output: each.relative for each in worst_differences(answers)} == {"y": 0.5, "z": 0.0}


def test_an_output_that_is_gone_is_an_error():
    with pytest.raises(PassError, match="Output 'z' is gone"):
        worst_differences([({"y": floats(1), "z": floats(3)}, {"y": floats(1)})])
