"""From a model's outputs to answers, as the recipe declared it and the bundle pins it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Arrays
from enginery.errors import UsageError
from enginery.pipeline.bundle.manifest import PostprocessRecord
from enginery.pipeline.ranking import largest_first
from enginery.pipeline.recipe import Postprocess, Recipe, Tensor


def record(recipe: Recipe, folder: Path) -> dict[str, PostprocessRecord]:
    """What the manifest says about postprocessing, by output; labels are read and pinned.

    Args:
        recipe: the recipe.
        folder: holds the files of labels.

    Raises:
        UsageError: labels cannot be read, or are not as many as the output's last dimension.
    """
    return {
        name: PostprocessRecord(apply=how.apply, top=how.top, labels=_labels(name, how, recipe.outputs[name], folder))
        for name, how in sorted(recipe.postprocess.items())
    }


def _labels(name: str, how: Postprocess, output: Tensor, folder: Path) -> tuple[str, ...]:
    if how.labels is None:
        return ()
    path = folder / how.labels
    try:
        labels = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The labels of output {name} cannot be read from {path}: {error}.") from error
    last = output.shape[-1]
    if last != len(labels):
        raise UsageError(f"{path} has {len(labels)} lines; output {name} has the last dimension {last}, one per label.")
    return labels


def finish(outputs: Arrays, how: Mapping[str, PostprocessRecord]) -> Arrays:
    """Apply what was declared to a batch of outputs; the others are handed on as they are.

    Args:
        outputs: arrays by name.
        how: the bundle's records, by output. Everything works along the last dimension.

    Returns:
        The arrays by name. With `top: k` an output [..., n] becomes its k largest values [..., k], the largest first,
        and beside it stand `NAME.index` (int64) and, where labels were declared, `NAME.label` (str), both [..., k].
    """
    found: dict[str, npt.NDArray[Any]] = {}
    for name, array in outputs.items():
        found |= _finish_one(name, array, how[name]) if name in how else {name: array}
    return found


def _finish_one(name: str, array: npt.NDArray[Any], how: PostprocessRecord) -> Arrays:
    values = _apply(array, how.apply)
    if how.top is None:
        return {name: values}
    index = largest_first(values)[..., : how.top]
    found: dict[str, npt.NDArray[Any]] = {
        name: np.take_along_axis(values, index, axis=-1),
        f"{name}.index": index.astype(np.int64),
    }
    if how.labels:
        found[f"{name}.label"] = np.asarray(how.labels)[index]
    return found


def _apply(array: npt.NDArray[Any], function: str | None) -> npt.NDArray[Any]:
    """Computed in float32 at least, and given back in it."""
    if function is None:
        return array
    values = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    if function == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)
    if function == "sigmoid":
        # By the half angle: exp(-x) would overflow where x is far below zero.
        return 0.5 * (1.0 + np.tanh(0.5 * values))
    length = np.sqrt((values * values).sum(axis=-1, keepdims=True))
    return values / np.maximum(length, np.finfo(values.dtype).tiny)
