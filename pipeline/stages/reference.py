"""Reference: run the original at every shape and on all evaluation data, and keep its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.engines.base import Arrays, DimRange, Feeds, Sizes, TensorSpec
from enginery.errors import EngineError, StageError
from enginery.passes.difference import measure
from enginery.pipeline.comparison.reference import (
    Batches,
    digest_batch,
    write_batch,
    write_case,
    write_evaluation,
    write_shapes,
)
from enginery.pipeline.comparison.shapes import Case, cases, fit, infer_output_specs, random_inputs

if TYPE_CHECKING:
    import numpy.typing as npt

SAME = 1e-4
"""Of an output's scale; what an export may differ by, too."""

Progress = Callable[[int, int | None], None]


def reference_shapes(
    folder: Path,
    *,
    run: Callable[[Feeds], Arrays],
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    shapes: Sequence[Sizes],
    declared: Sequence[TensorSpec],
    batches: Batches | None,
    seed: int,
    progress: Progress,
) -> None:
    """Write the original's answers at every shape into `folder`.

    Args:
        folder: empty; see `enginery.pipeline.comparison.reference` for what is written.
        run: the original: feeds by name in, every output by name out.
        inputs: the declared inputs.
        dims: the declared dynamic dimensions.
        shapes: further sizes to run at.
        declared: outputs that the recipe insists on; empty means whatever the original returns.
        batches: opens the evaluation data, whose first batch is cut and repeated to the shapes; None: seeded noise.
        seed: of that noise.
        progress: hears (shapes done, shapes in all).

    Raises:
        StageError: the original fails at a declared shape, does not return what the recipe declares, or answers the
            same inputs differently.
    """
    base = _base_inputs(batches, inputs, dims, seed)
    wanted = cases(dims, shapes)
    seen: list[tuple[Mapping[str, int], Arrays]] = []
    for done, case in enumerate(wanted, 1):
        feeds = fit(base, inputs, case.sizes)
        outputs = _run_case(run, feeds, case)
        write_case(folder, case, feeds, outputs)
        if case.name == "min" or len(wanted) == 1:
            _require_same(outputs, _run_case(run, feeds, case), case)
        seen.append((case.sizes, _shapes_only(outputs)))
        progress(done, len(wanted))
    if absent := [spec.name for spec in declared if spec.name not in seen[0][1]]:
        raise StageError(
            f"reference: the recipe declares the outputs {absent}; the original returns {sorted(seen[0][1])}."
        )
    specs = infer_output_specs([spec.name for spec in declared] or list(seen[0][1]), seen)
    write_shapes(folder, _as_declared(specs, declared), wanted, random=batches is None)


def reference_evaluation(folder: Path, *, run: Callable[[Feeds], Arrays], batches: Batches, progress: Progress) -> None:
    """Write the original's outputs on each batch of evaluation data into `folder`.

    Raises:
        StageError: all samples are the same: placeholders, on which an engine may agree and be wrong everywhere else.
    """
    digests: list[str] = []
    samples = 0
    first: Arrays | None = None
    alike = True
    for batch in batches():
        first = first or {name: np.atleast_1d(array)[:1] for name, array in batch.inputs.items()}
        alike = alike and all(_repeats(first[name], array) for name, array in batch.inputs.items())
        write_batch(folder, len(digests), run(batch.inputs))
        digests.append(digest_batch(batch.inputs, batch.labels))
        samples += next(iter(batch.inputs.values())).shape[0]
        progress(len(digests), None)
    if alike and samples > 1:
        raise StageError(
            f"reference: all {samples} samples of the evaluation data are the same, and a comparison on them says "
            "nothing of others. Give real ones."
        )
    write_evaluation(folder, digests, samples)


def _repeats(first: npt.NDArray[Any], array: npt.NDArray[Any]) -> bool:
    """Whether every row of `array` is the one of `first`."""
    return array.shape[1:] == first.shape[1:] and bool((array == first).all())


def _base_inputs(
    batches: Batches | None,
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    seed: int,
) -> Arrays:
    if batches is None:
        return random_inputs(inputs, {name: dim.opt for name, dim in dims.items()}, seed)
    for batch in batches():
        return batch.inputs
    raise StageError("reference: the evaluation data holds no batch. Give it at least one sample.")


def _run_case(run: Callable[[Feeds], Arrays], feeds: Feeds, case: Case) -> Arrays:
    try:
        return run(feeds)
    except EngineError as error:
        raise StageError(
            f"reference: the original itself fails at the declared shape {case}: {error} "
            "Either the shape is baked into the model, or it is out of the model's range: correct `dims` in the recipe."
        ) from error


def _require_same(first: Feeds, again: Feeds, case: Case) -> None:
    """What an original answers twice may differ by the order of sums alone: with chance nothing can be compared."""
    for name, array in first.items():
        if np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f"):
            continue
        same_form = array.shape == again[name].shape and array.dtype == again[name].dtype
        found = measure(name, array, again[name]) if same_form else None
        if found is None or not found.within(SAME):
            much = "in shape or type" if found is None else f"by {found.relative:.2g} of its scale"
            raise StageError(
                f"reference: at {case} the original gives two answers to the same inputs: {name!r} differs "
                f"{much}. It draws random numbers, such as a dropout that is always on, or "
                "keeps something from one call to the next. Take that out of `forward`."
            )


def _shapes_only(outputs: Feeds) -> Arrays:
    """Views without memory: what is kept of a case to infer the outputs' dimensions."""
    return {name: np.broadcast_to(np.empty((), array.dtype), array.shape) for name, array in outputs.items()}


def _as_declared(found: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What the recipe says of the outputs must be so; a name it gives to a dimension of its own is kept."""
    if not declared:
        return tuple(found)
    for spec, wanted in zip(found, declared, strict=True):
        fits = len(spec.shape) == len(wanted.shape) and all(
            size == want or (isinstance(want, str) and size == f"{spec.name}_{axis}")
            for axis, (size, want) in enumerate(zip(spec.shape, wanted.shape, strict=True))
        )
        if spec.dtype != wanted.dtype or not fits:
            raise StageError(f"reference: the recipe declares the output {wanted}; the original returns {spec}.")
    return tuple(declared)
