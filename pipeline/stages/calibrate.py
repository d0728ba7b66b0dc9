"""Calibrate: stream the calibration data through the graph and keep what its tensors held."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from enginery.engines.base import DimRange, Feeds, TensorSpec
from enginery.errors import StatisticsError
from enginery.passes.base import OpenModel
from enginery.passes.calibration import Statistics, collect, graph_digest, statistics_folder
from enginery.passes.calibration.statistics import HEAD

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
    partial: Path,
    progress: Progress,
    count: Callable[[], int | None] | None = None,
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
        partial: where the statistics of a run that Ctrl-C ended are kept, and gone on from.
        progress: hears (batches done, batches in all or None).
        count: how many batches there are, where that is known; asked while they stream.

    Raises:
        DataError: no data, one sample, or a batch that is not as declared.
        KeyboardInterrupt: Ctrl-C; what was seen is in `partial`.
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
        resume=_interrupted(partial),
        progress=progress,
        count=count,
    )
    shutil.rmtree(partial, ignore_errors=True)
    if not statistics.complete:
        statistics.save(partial)
        raise KeyboardInterrupt
    statistics.save(folder / "statistics")


def take_statistics(folder: Path, *, statistics: Path, model: Path) -> None:
    """Write given statistics into `folder/statistics`.

    Raises:
        StatisticsError: they are damaged, of an interrupted run, or of another graph than `model`.
    """
    given = Statistics.load(statistics)
    given.require_graph(graph_digest(model))
    if not given.complete:
        raise StatisticsError(f"{statistics} is of an interrupted run. Run the same `enginery calibrate` again.")
    given.save(folder / "statistics")


def whole_digest(statistics: Path) -> str:
    """sha256 over a folder of statistics.

    Raises:
        StatisticsError: it holds none.
    """
    Statistics.load(statistics)
    return hashlib.sha256((statistics_folder(statistics) / HEAD).read_bytes()).hexdigest()


def _interrupted(partial: Path) -> Statistics | None:
    """What an interrupted run left, if it is whole; a damaged one costs time only."""
    try:
        return Statistics.load(partial)
    except StatisticsError:
        return None
