"""Places in the order of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def largest_first(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The places along the last axis, the largest value first; equal values keep the order of their places.

    Args:
        values: of any dtype that has an order, [..., n]. Unsigned integers and booleans have no negative to sort by.

    Returns:
        Indices [..., n]. The first of them is that of `argmax`.
    """
    last = values.shape[-1] - 1
    return last - np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1]
