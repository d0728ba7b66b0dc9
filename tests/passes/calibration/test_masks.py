"""Which positions of a tensor a mask lets count."""

import numpy as np
import pytest

from enginery.errors import DataError
from enginery.passes.calibration.masks import mask_dimensions, valid_positions

MASK = np.array([[1, 1, 0], [1, 0, 0]])


def valid(dims, channel_axis, names=("batch", "seq")):
    return valid_positions(dims, channel_axis, {"mask": MASK}, {"mask": names})


def test_a_mask_with_the_tensors_dimensions_is_taken_without_the_channels():
    np.testing.assert_array_equal(valid(("batch", "seq", ""), 2), MASK != 0)


def test_dimensions_may_stand_in_another_order():
    np.testing.assert_array_equal(valid(("seq", "batch", ""), 2), (MASK != 0).T)


def test_dimensions_that_the_mask_lacks_are_broadcast():
    assert valid(("batch", "", "seq", ""), 3).shape == (2, 1, 3)


def test_scores_are_masked_on_both_axes():
    found = valid(("batch", "", "seq", "seq"), 1)
    np.testing.assert_array_equal(found[1], np.outer(MASK[1], MASK[1]) != 0)


@pytest.mark.parametrize(
    ("dims", "names"),
    [
        (("batch", "", ""), ("batch", "seq")),
        (("batch", "", "seq", ""), ("batch", "")),
        (("", "", ""), ("", "")),
        (("", "seq", ""), ("", "seq")),
    ],
    ids=["a dimension is not the tensor's", "a fixed one", "none has a name", "one has no name"],
)
def test_dimensions_without_a_name_are_no_reason_to_leave_anything_out(dims, names):
    """Two fixed sizes that happen to be equal are not the same dimension."""
    assert valid(dims, len(dims) - 1, names) is None


def test_the_channel_axis_is_never_masked():
    assert valid(("batch", "seq"), 1) is None


def test_several_masks_all_count():
    feeds = {"mask": MASK, "other": np.array([[0, 1, 1], [1, 1, 1]])}
    names = dict.fromkeys(feeds, ("batch", "seq"))
    found = valid_positions(("batch", "seq", ""), 2, feeds, names)
    np.testing.assert_array_equal(found, [[False, True, False], [True, False, False]])


def test_a_mask_must_be_an_input():
    assert mask_dimensions(["mask"], {"mask": ("batch", "seq")}) == {"mask": ("batch", "seq")}
    with pytest.raises(DataError, match=r"Masks \['moon'\] are no inputs of the model; its inputs are \['mask'\]"):
        mask_dimensions(["moon"], {"mask": ()})
