import numpy as np
import pytest

from enginery.pipeline.ranking import largest_first


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int8", "uint8", "bool"])
def test_the_first_place_is_that_of_argmax(dtype):
    values = np.random.default_rng(0).integers(-128, 256, (50, 4, 9)).astype(dtype)
    order = largest_first(values)
    np.testing.assert_array_equal(order[..., 0], values.argmax(-1))
    ranked = np.take_along_axis(values, order, -1)
    assert (ranked[..., :-1] >= ranked[..., 1:]).all()
    assert (np.sort(order, -1) == np.arange(9)).all()


def test_equal_values_keep_their_order():
    assert largest_first(np.array([2, 5, 2, 5, 5])).tolist() == [1, 3, 4, 0, 2]
