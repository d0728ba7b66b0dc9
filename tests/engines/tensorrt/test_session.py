import numpy as np
import pytest

from enginery.engines.base import DimRange, TensorSpec
from enginery.engines.tensorrt.session import choose_profile, format_profile, named_sizes
from enginery.errors import InputError

SMALL = {"batch": DimRange(1, 1, 1), "seq": DimRange(1, 16, 32)}
LARGE = {"batch": DimRange(1, 8, 32), "seq": DimRange(1, 64, 256)}
LONG = {"batch": DimRange(1, 1, 2), "seq": DimRange(128, 256, 512)}
PROFILES = (LARGE, SMALL, LONG)


@pytest.mark.parametrize(
    ("sizes", "current", "expected"),
    [
        ({"batch": 1, "seq": 16}, 2, 1),
        ({"batch": 1, "seq": 16}, 0, 0),
        ({"batch": 4, "seq": 16}, 1, 0),
        ({"batch": 1, "seq": 200}, 1, 0),
        ({"batch": 1, "seq": 300}, 0, 2),
    ],
)
def test_the_profile_follows_from_the_named_dimensions(sizes, current, expected):
    """The current profile is kept while it fits, since a switch costs time; else the tightest is taken."""
    assert choose_profile(sizes, PROFILES, current) == expected


def test_a_size_that_no_profile_covers_is_refused_with_the_profiles():
    with pytest.raises(InputError) as error:
        choose_profile({"batch": 8, "seq": 300}, PROFILES)
    assert "batch=8, seq=300" in str(error.value)
    for profile in PROFILES:
        assert format_profile(profile) in str(error.value)


def test_a_profile_prints_its_best_sizes():
    assert format_profile(LARGE) == "batch 1-32 (best 8), seq 1-256 (best 64)"


def test_named_sizes_are_read_off_the_feeds():
    inputs = (TensorSpec("ids", "int64", ("batch", "seq")), TensorSpec("scale", "float32", (3,)))
    feeds = {"ids": np.zeros((2, 7), np.int64), "scale": np.zeros(3, np.float32)}
    assert named_sizes(feeds, inputs) == {"batch": 2, "seq": 7}
