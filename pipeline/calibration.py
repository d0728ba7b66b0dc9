"""Statistics outside of a line: merged from several workers, and TensorRT's calibration caches in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enginery.errors import UsageError
from enginery.passes.calibration import Statistics, export_cache, import_cache, make_observer
from enginery.pipeline.bundle.placing import placing
from enginery.pipeline.files import write_durably
from enginery.pipeline.recipe import Precision


def merge_statistics(folders: Sequence[Path], to: Path) -> Statistics:
    """Write the statistics of several runs together into the new folder `to`; their order does not matter.

    Raises:
        UsageError: fewer than two folders, or `to` exists.
        StatisticsError: other graphs, other masks, or a batch in more than one.
    """
    if len(folders) < 2:
        raise UsageError(f"Merging takes at least two folders of statistics; given: {len(folders)}.")
    first, *others = (Statistics.load(folder) for folder in folders)
    merged = first.merge(*others)
    save_statistics(merged, to)
    return merged


def save_statistics(statistics: Statistics, to: Path) -> None:
    """Write statistics so that `to` is whole or absent.

    Raises:
        UsageError: `to` exists.
    """
    if to.exists():
        raise UsageError(f"{to} exists. Name a new folder with --to, or remove it.")
    with placing(to) as fresh:
        statistics.save(fresh)


def write_cache(statistics: Path, precision: Precision, cache: Path) -> int:
    """Write a TensorRT calibration cache with the ranges that the recipe's observer reads; the number of tensors."""
    loaded = Statistics.load(statistics)
    text = export_cache(loaded, make_observer(precision.observer, precision.percentile))
    write_durably(cache, text.encode())
    return text.count("\n") - 1


def read_cache(cache: Path, model: Path, to: Path) -> Statistics:
    """Write the statistics that a TensorRT calibration cache holds for `model` into the new folder `to`.

    Raises:
        StatisticsError: the file is no cache, or of another graph.
        UsageError: `to` exists.
    """
    statistics = import_cache(cache, model)
    save_statistics(statistics, to)
    return statistics
