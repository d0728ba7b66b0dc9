"""Inputs for an ONNX file that nobody said anything about: seeded noise at several sizes of its dynamic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.errors import EngineError, UsageError
from enginery.passes.base import Feeds, OpenModel

if TYPE_CHECKING:
    from enginery.passes.base import Arrays

SIZES = (2, 1, 5)
"""Sizes of dynamic dimensions. A dimension gets them in turn, the next dimension begins with the next of them."""


def random_feeds(model: Path, sizes: Sequence[Mapping[str, int]]) -> list[Feeds]:
    """Seeded inputs, one set for each entry of `sizes`, which gives every symbolic dimension its size.

    Dimensions without a name take the size of the name "". Integers are 0 or 1, so that they may be indices, and 1
    where the last axis begins, so that a padding mask never hides everything.
    """
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    return [_feed(inputs, each, np.random.default_rng(seed)) for seed, each in enumerate(sizes)]


def _feed(inputs: Sequence[Any], sizes: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    import onnx

    feed: Arrays = {}
    for value in inputs:
        tensor = value.type.tensor_type
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in map(_size, tensor.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind in "iub":
            values = np.asarray(rng.integers(0, 2, shape))
            if shape:
                values[..., :1] = 1
        else:
            values = rng.standard_normal(shape)
        feed[value.name] = values.astype(dtype)
    return feed


def dynamic_dims(model: Path) -> tuple[str, ...]:
    """The symbolic dimensions of the inputs, in order; "" stands for all that have no name."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    dims = [_size(dim) for value in graph.input for dim in value.type.tensor_type.shape.dim]
    return tuple(dict.fromkeys(dim for dim in dims if isinstance(dim, str)))


def _size(dim: Any) -> int | str:
    """A dimension's size or its name, which may be empty; some exporters write -1 for a size that is not known."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param


def feeds_that_run(model: Path, open_model: OpenModel) -> list[Feeds]:
    """Random feeds that the model accepts, one for each of SIZES.

    Every dimension gets a size of its own; where the model refuses that, because dimensions depend on each other, all
    get the same.

    Raises:
        UsageError: the model runs on none of them, or answers nothing but NaN and zeros.
    """
    dims = dynamic_dims(model)
    run = open_model(model, optimize=False)
    kept: list[Feeds] = []
    telling, refusal = False, "every output is empty, zero or not a number"
    for i, size in enumerate(SIZES if dims else SIZES[:1]):
        apart = {name: SIZES[(i + j) % len(SIZES)] for j, name in enumerate(dims)}
        for feed in random_feeds(model, [apart, dict.fromkeys(dims, size)]):
            try:
                outputs = run(feed)
            except EngineError as error:
                refusal = str(error).strip().splitlines()[0]
                continue
            kept.append(feed)
            telling = telling or any(map(_tells, outputs.values()))
            break
    if telling:
        return kept
    raise UsageError(
        f"{model} cannot be proved on random inputs: {refusal}. Give real ones with --inputs FILE.npz, "
        "or choose --prove off."
    )


def _tells(output: Any) -> bool:
    """Whether an output could show a difference."""
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiubc":
        return True
    return bool(output.size and np.any(np.isfinite(output) & (output != 0)))
