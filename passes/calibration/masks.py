"""Leaves padded positions out of the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.errors import DataError

Mask = npt.NDArray[np.bool_]


def valid_positions(
    dims: Sequence[str], channel_axis: int, feeds: Mapping[str, npt.NDArray[Any]], masks: Mapping[str, Sequence[str]]
) -> Mask | None:
    """The valid positions of a tensor, shaped to broadcast against it without its channel axis.

    Args:
        dims: Names of the tensor's dimensions; "" for a fixed one.
        channel_axis: The axis that statistics are kept by; it is never masked.
        feeds: The batch; a mask is one of its arrays, nonzero where a position is valid.
        masks: Names of the dimensions of each masking input.

    Returns:
        None when no mask shares all of its dimensions with the tensor. A dimension that the tensor has twice
        (attention scores) is masked on both axes.
    """
    kept = [name for axis, name in enumerate(dims) if axis != channel_axis]
    valid: Mask | None = None
    for mask_name, mask_dims in masks.items():
        if not all(mask_dims) or not set(mask_dims) <= set(kept):
            continue
        array = feeds[mask_name] != 0
        last = mask_dims[-1]
        for axis in (axis for axis, name in enumerate(kept) if name == last):
            places = [kept.index(name) for name in mask_dims[:-1]] + [axis]
            shape = [1] * len(kept)
            for size, place in zip(array.shape, places, strict=True):
                shape[place] = size
            part = array.transpose(np.argsort(places)).reshape(shape)
            valid = part if valid is None else valid & part
    return valid


def mask_dimensions(masks: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The named dimensions of each masking input.

    Raises:
        DataError: a mask is no input of the model.
    """
    if unknown := sorted(set(masks) - set(inputs)):
        raise DataError(f"Masks {unknown} are no inputs of the model; its inputs are {sorted(inputs)}.")
    return {name: inputs[name] for name in masks}
