"""Calibrate: stream the calibration data through the graph and keep what its tensors held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from enginery.engines.base import DimRange, Feeds, TensorSpec
from enginery.passes.base import OpenModel
from enginery.passes.calibration import collect

Progress = Callable[[int, int | None], None]


def calibrate(
    folder: Path,
    *,
    model: Path,
    batches: Callable[[], Iterable[Feeds]],
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    masks: Sequence[str],
    open_model: OpenModel,
    memory_budget: int,
    random: bool,
    progress: Progress,
) -> None:
    """Write the statistics into `folder/statistics`.

    Args:
        folder: empty.
        model: the optimized ONNX file.
        batches: opens the calibration data anew.
        inputs: the declared inputs.
        dims: the declared ranges; a batch outside of them is refused.
        masks: inputs that mark valid positions.
        open_model: runs a graph.
        memory_budget: bytes that observed tensors may take at once.
        random: the data is random and the user knows it; the statistics say so.
        progress: hears (batches done, batches in all or None).

    Raises:
        DataError: no data, one sample, or a batch that is not as declared.
        KeyboardInterrupt: Ctrl-C; nothing is kept in the store.
    """
    statistics = collect(
        model,
        batches,
        open_model=open_model,
        dims={name: (dim.min, dim.opt, dim.max) for name, dim in dims.items()},
        input_dims={spec.name: spec.shape for spec in inputs},
        memory_budget=memory_budget,
        masks=masks,
        random=random,
        progress=progress,
    )
    if not statistics.complete:
        raise KeyboardInterrupt
    statistics.save(folder / "statistics")
