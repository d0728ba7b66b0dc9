"""Coordinate descent over the weight grid: what adaptive rounding minimizes, and inputs that never vary from zero."""

import numpy as np

from enginery.passes.quantize.remedies.rounding import descend

RNG = np.random.default_rng(0)


def problem(inputs):
    exact = RNG.standard_normal((1, inputs.shape[1], 6))
    step = np.full_like(exact, 0.25)
    return exact, np.rint(exact / step) * step, step, (inputs.T @ inputs / len(inputs))[None]


def error(gram, difference):
    return float(np.einsum("gkm,gkl,glm->", difference, gram, difference))


def test_it_never_ends_worse_than_nearest_rounding():
    inputs = RNG.standard_normal((64, 8)) @ RNG.standard_normal((8, 8))
    exact, nearest, step, gram = problem(inputs)
    found = descend(exact, nearest, step, gram, "int8", 3)
    assert error(gram, exact - found) < 0.7 * error(gram, exact - nearest)
    np.testing.assert_allclose(found / step, np.rint(found / step), atol=1e-9)


def test_an_input_that_is_always_zero_keeps_its_nearest_weights():
    inputs = RNG.standard_normal((64, 8))
    inputs[:, [0, 5]] = 0.0
    exact, nearest, step, gram = problem(inputs)
    found = descend(exact, nearest, step, gram, "int8", 3)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, [0, 5]], nearest[:, [0, 5]])


def test_a_group_whose_inputs_are_all_zero_is_left_alone():
    exact, nearest, step, gram = problem(np.zeros((4, 8)))
    np.testing.assert_array_equal(descend(exact, nearest, step, gram, "int8", 3), nearest)
