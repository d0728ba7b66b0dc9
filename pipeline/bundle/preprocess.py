"""From raw items to a model's inputs, as the recipe declared it and the bundle pins it: photos or texts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Arrays, DimRange, TensorSpec
from enginery.errors import DataError, MissingDependencyError
from enginery.pipeline.bundle.manifest import PreprocessRecord
from enginery.pipeline.recipe import Data, ImagePreprocess, Recipe, TextPreprocess

TOKENIZER = "preprocess/tokenizer.json"
"""Where a bundle keeps the tokenizer."""


def declared(recipe: Recipe) -> Data | None:
    """The data of a recipe that says how a raw item becomes an input; evaluation before calibration."""
    kinds = (recipe.data.evaluation, recipe.data.calibration)
    return next((data for data in kinds if data is not None and (data.image or data.tokenize)), None)


def record(recipe: Recipe) -> PreprocessRecord | None:
    """What the manifest says about preprocessing, or None where the recipe declares none."""
    data = declared(recipe)
    if data is None:
        return None
    if data.tokenize is not None:
        options = data.tokenize.model_dump(mode="json", exclude={"tokenizer", "columns", "label"})
        return PreprocessRecord(kind="text", options=options, file=TOKENIZER)
    assert data.image is not None
    return PreprocessRecord(kind="image", options=data.image.model_dump(mode="json"), input=data.input)


def tokenizer_source(recipe: Recipe, folder: Path) -> Path | None:
    """The tokenizer's file that a bundle of this recipe pins, or None."""
    data = declared(recipe)
    if data is None or data.tokenize is None:
        return None
    from enginery.pipeline.data.text import tokenizer_file

    return tokenizer_file(data.tokenize.tokenizer, folder)


def prepare(
    items: Sequence[Any],
    how: PreprocessRecord,
    bundle: Path,
    inputs: tuple[TensorSpec, ...],
    dims: Mapping[str, DimRange],
) -> Arrays:
    """Turn raw items into one batch of inputs.

    Args:
        items: texts; or images as paths, encoded bytes, uint8 arrays [height, width(, channels)] or PIL images.
        how: the bundle's record.
        bundle: holds the tokenizer.
        inputs: the engine's inputs.
        dims: the ranges of the dynamic dimensions.

    Raises:
        DataError: an item cannot be read or is of the wrong kind.
        MissingDependencyError: pillow or tokenizers is absent.
    """
    if not items:
        raise DataError("There is nothing to predict: the list of items is empty.")
    if how.kind == "text":
        return _texts(items, how, bundle, inputs, dims)
    chosen = next(spec for spec in inputs if how.input in (None, spec.name))
    return {chosen.name: _images(items, ImagePreprocess(**how.options)).astype(chosen.dtype)}


def _texts(
    items: Sequence[Any],
    how: PreprocessRecord,
    bundle: Path,
    inputs: tuple[TensorSpec, ...],
    dims: Mapping[str, DimRange],
) -> Arrays:
    from enginery.pipeline.data.text import encode, open_tokenizer

    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"Item {place} is of type {type(item).__name__}; this engine takes texts (str).")
    file = bundle / str(how.file)
    tokenizer = open_tokenizer(file, TextPreprocess(tokenizer=str(file), **how.options), inputs, dims)
    return encode(tokenizer, items, inputs)


def _images(items: Sequence[Any], how: ImagePreprocess) -> npt.NDArray[np.float32]:
    from enginery.pipeline.data.images import preprocess

    arrays = [preprocess(_open(item, place), how, f"item {place}") for place, item in enumerate(items)]
    if len({array.shape for array in arrays}) > 1:
        shapes = sorted({array.shape for array in arrays})
        raise DataError(f"The images have the shapes {shapes} after preprocessing; one batch has one shape.")
    return np.stack(arrays)


def _open(item: Any, place: int) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            "Reading images needs pillow: pip install 'enginery[cpu]', or pillow alone."
        ) from error
    try:
        if isinstance(item, Image.Image):
            return item
        if isinstance(item, np.ndarray):
            return Image.fromarray(cast("npt.NDArray[np.uint8]", item))
        if isinstance(item, bytes):
            return Image.open(io.BytesIO(item))
        if isinstance(item, str | Path):
            return Image.open(item)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise DataError(f"Item {place} cannot be read as an image: {error}.") from error
    raise DataError(
        f"Item {place} is of type {type(item).__name__}; this engine takes images: paths, bytes, arrays, PIL images."
    )
