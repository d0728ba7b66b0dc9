import numpy as np
import pytest

from enginery.engines.base import DimRange, Session, TensorSpec, check_feeds
from enginery.errors import EngineError, InputError

INPUTS = (
    TensorSpec("ids", "int64", ("batch", "seq")),
    TensorSpec("mask", "int64", ("batch", "seq")),
    TensorSpec("image", "float32", ("batch", 3)),
)
DIMS = {"batch": DimRange(1, 2, 4), "seq": DimRange(2, 8, 16)}


def feeds(**changes):
    good = {
        "ids": np.zeros((2, 8), np.int64),
        "mask": np.zeros((2, 8), np.int64),
        "image": np.zeros((2, 3), np.float32),
    }
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


def test_right_feeds_pass():
    check_feeds(feeds(), INPUTS, DIMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, r"Inputs given: \['ids', 'image'\]; expected: \['ids', 'image', 'mask'\]"),
        ({"extra": np.zeros(1)}, "Inputs given.*'extra'"),
        ({"ids": np.zeros((2, 8), np.int32)}, "'ids' has dtype int32; expected int64"),
        ({"ids": np.zeros((2,), np.int64)}, r"'ids' has shape \[2\]; expected ids: int64\[batch, seq\]"),
        ({"image": np.zeros((2, 4), np.float32)}, r"'image' has shape \[2, 4\]"),
        ({"image": np.zeros((3, 3), np.float32)}, "'batch' is 2 in input 'ids' and 3 in input 'image'"),
        ({"ids": np.zeros((2, 17), np.int64)}, "'seq' of input 'ids' is 17; .* 2 to 16"),
        ({"ids": np.zeros((0, 8), np.int64)}, "'batch' of input 'ids' is 0; .* 1 to 4"),
    ],
)
def test_wrong_feeds_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        check_feeds(feeds(**changes), INPUTS, DIMS)


class Echo(Session):
    def _run(self, feeds):
        return dict(feeds)

    def describe(self):
        return {}


def test_a_closed_session_does_not_run():
    with Echo((TensorSpec("x", "float32", (1,)),), (), {}) as session:
        assert session.run({"x": np.ones(1, np.float32)})["x"] == 1
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": np.ones(1, np.float32)})


def test_what_ran_before_is_checked_anew_once_its_layout_differs():
    with Echo(INPUTS, (), DIMS) as session:
        for _ in range(2):
            assert session.run(feeds()).keys() == feeds().keys()
            for wrong in ({"mask": None}, {"ids": np.zeros((2, 8), np.int32)}, {"image": np.zeros((3, 3), np.float32)}):
                with pytest.raises(InputError):
                    session.run(feeds(**wrong))
