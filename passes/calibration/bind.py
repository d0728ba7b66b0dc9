"""Statistics of one graph for another that was made from it: one calibration serves every target.

Each target lowers the calibrated graph in its own way. Most tensors keep their names, some get new ones, and a name
proves nothing: a tensor's statistics are taken only where both graphs give the same values on the same inputs, channel
by channel, be it under the same name or another. What a target needs and the calibrated graph has not is measured on
the target's own graph, and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from enginery.passes.base import Feeds, OpenModel, Refusal
from enginery.passes.calibration.batches import Batches
from enginery.passes.calibration.collect import collect
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.calibration.sweep import Calibrated, Progress
from enginery.passes.calibration.tensor_statistics import TensorStatistics

TOLERANCE = 1e-3
"""How far two graphs' values of one tensor may be apart, relative to its largest magnitude."""


@dataclass(frozen=True)
class Bound:
    """Statistics of the target's graph, and where each tensor's come from.

    `taken` maps tensors to those of the calibrated graph, `measured` were measured anew (each with the reason), and
    `lacking` are needed but known from nowhere.
    """

    statistics: Statistics
    taken: Mapping[str, str]
    measured: tuple[Refusal, ...] = ()
    lacking: tuple[Refusal, ...] = ()


def bind(
    statistics: Statistics,
    calibrated: Path,
    model: Path,
    needed: Collection[str],
    *,
    feeds: Sequence[Feeds],
    batches: Batches | None,
    open_model: OpenModel,
    memory_budget: int = 2 << 30,
    progress: Progress | None = None,
) -> Bound:
    """The statistics of `model`, taken from those of `calibrated` wherever both compute the same.

    Args:
        statistics: Of `calibrated`.
        calibrated: The ONNX file that was calibrated.
        model: The ONNX file that is to be quantized.
        needed: The tensors of `model` that the target's policy reads; only these are ever measured anew.
        feeds: Inputs at several shapes, on which the two graphs are compared.
        batches: The calibration data; None where it is not at hand, and then nothing is measured anew.
        open_model: How to run a model.
        memory_budget: Bytes that the tensors of one batch may take at once.
        progress: Told (batches done, batches in total or None) while something is measured.

    Raises:
        StatisticsError: the statistics are not of `calibrated`.
    """
    digest = graph_digest(model)
    if digest == statistics.graph_digest:
        return Bound(statistics, {name: name for name in statistics.tensors})
    statistics.require_graph(graph_digest(calibrated))
    opened = Calibrated.open(model, open_model, statistics.masks)
    wanted = [name for name in opened.observable if name in statistics.tensors or name in needed]
    known, found = (
        _ranges(path, feeds, names, open_model=open_model, memory_budget=memory_budget, masks=statistics.masks)
        for path, names in ((calibrated, list(statistics.tensors)), (model, wanted))
    )
    taken = {name: origin for name in wanted if (origin := _origin(name, found.get(name), known)) is not None}
    absent = [name for name in wanted if name in needed and name not in taken]
    fresh: dict[str, TensorStatistics] = {}
    if absent and batches is not None:
        more = collect(
            model, batches, open_model=open_model, memory_budget=memory_budget, masks=statistics.masks,
            tensors=absent, random=statistics.random, progress=progress, count=lambda: len(statistics.batches),
        )  # fmt: skip
        # Ranges of other data than the rest's would be no statistics of one run.
        fresh = dict(more.tensors) if Counter(more.batches) == Counter(statistics.batches) else {}
    tensors = {name: statistics.tensors[origin] for name, origin in taken.items()} | fresh
    reasons = [Refusal(name, _why(name, statistics)) for name in absent]
    return Bound(
        replace(statistics, graph_digest=digest, tensors=dict(sorted(tensors.items()))),
        taken,
        tuple(reason for reason in reasons if reason.node in fresh),
        tuple(reason for reason in reasons if reason.node not in fresh),
    )


def _origin(name: str, values: TensorStatistics | None, known: Mapping[str, TensorStatistics]) -> str | None:
    """The tensor of the calibrated graph that holds the same values, its namesake before any other."""
    if values is None:
        return None
    candidates = (name, *known) if name in known else tuple(known)
    return next((each for each in candidates if _same(known[each], values)), None)


def _ranges(
    model: Path,
    feeds: Iterable[Feeds],
    tensors: Sequence[str],
    *,
    open_model: OpenModel,
    memory_budget: int,
    masks: Sequence[str],
) -> dict[str, TensorStatistics]:
    """Ranges by channel over a few feeds."""
    if not tensors:
        return {}
    few = collect(
        model, lambda: feeds, open_model=open_model, memory_budget=memory_budget, masks=masks,
        histograms=False, tensors=tensors, random=True,
    )  # fmt: skip
    return dict(few.tensors)


def _same(one: TensorStatistics, other: TensorStatistics) -> bool:
    """Whether two tensors have the same extremes and means in every channel, and as many values."""
    if (one.count, one.axis, one.channel_low.shape) != (other.count, other.axis, other.channel_low.shape):
        return False
    reach = max(abs(one.low), abs(one.high), 1e-30)
    extremes = zip((one.channel_low, one.channel_high), (other.channel_low, other.channel_high), strict=True)
    close = all(bool(np.all(np.abs(mine - theirs) <= TOLERANCE * reach)) for mine, theirs in extremes)
    means = np.abs(one.channel_sum - other.channel_sum) * len(one.channel_sum) / one.count
    return close and bool(np.all(means <= TOLERANCE * reach))


def _why(name: str, statistics: Statistics) -> str:
    if name in statistics.tensors:
        return f"the calibrated graph has a tensor {name!r} with other values"
    return "the calibrated graph has no tensor with its values"
