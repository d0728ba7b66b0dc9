"""Statistics of one graph for another that was made from it: one calibration serves every target.

Each target lowers the calibrated graph in its own way, and nearly every tensor keeps its name. A name proves nothing,
so a tensor's statistics are taken only where both graphs give it the same values on the same inputs; what a target
needs and the calibrated graph has not is measured on the target's own graph, and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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
    """Statistics of the target's graph: `taken` from the calibrated one, `measured` anew (each with the reason), and
    `lacking`, needed but known from nowhere.
    """

    statistics: Statistics
    taken: tuple[str, ...]
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
        return Bound(statistics, tuple(statistics.tensors))
    statistics.require_graph(graph_digest(calibrated))
    opened = Calibrated.open(model, open_model, statistics.masks)
    shared = [name for name in opened.observable if name in statistics.tensors]
    both = [
        _ranges(path, feeds, shared, open_model=open_model, memory_budget=memory_budget, masks=statistics.masks)
        for path in (calibrated, model)
    ]
    taken = {name: statistics.tensors[name] for name in shared if _same(both[0].get(name), both[1].get(name))}
    absent = [name for name in needed if name not in taken and name in opened.observable]
    reasons = tuple(Refusal(name, _why(name, name in shared)) for name in absent)
    found: dict[str, TensorStatistics] = {}
    if absent and batches is not None:
        more = collect(
            model, batches, open_model=open_model, memory_budget=memory_budget, masks=statistics.masks,
            tensors=absent, random=statistics.random, progress=progress,
        )  # fmt: skip
        # Ranges of other data than the rest's would be no statistics of one run.
        found = dict(more.tensors) if Counter(more.batches) == Counter(statistics.batches) else {}
    tensors = dict(sorted((taken | found).items()))
    return Bound(
        replace(statistics, graph_digest=digest, tensors=tensors),
        tuple(sorted(taken)),
        tuple(reason for reason in reasons if reason.node in found),
        tuple(reason for reason in reasons if reason.node not in found),
    )


def _ranges(
    model: Path,
    feeds: Iterable[Feeds],
    tensors: Sequence[str],
    *,
    open_model: OpenModel,
    memory_budget: int,
    masks: Sequence[str],
) -> dict[str, TensorStatistics]:
    """Ranges by channel over a few feeds, of tensors that one run over real data has seen already."""
    if not tensors:
        return {}
    few = collect(
        model, lambda: feeds, open_model=open_model, memory_budget=memory_budget, masks=masks,
        histograms=False, tensors=tensors, random=True,
    )  # fmt: skip
    return dict(few.tensors)


def _same(one: TensorStatistics | None, other: TensorStatistics | None) -> bool:
    """Whether two graphs gave a tensor the same extremes and sums in every channel, and as many values."""
    if one is None or other is None:
        return one is other
    if (one.count, one.axis, one.channel_low.shape) != (other.count, other.axis, other.channel_low.shape):
        return False
    reach = max(abs(one.low), abs(one.high), 1e-30)
    extremes = zip((one.channel_low, one.channel_high), (other.channel_low, other.channel_high), strict=True)
    close = all(bool(np.all(np.abs(mine - theirs) <= TOLERANCE * reach)) for mine, theirs in extremes)
    means = np.abs(one.channel_sum - other.channel_sum) * len(one.channel_sum) / one.count
    return close and abs(one.low - other.low) <= TOLERANCE * reach and bool(np.all(means <= TOLERANCE * reach))


def _why(name: str, shared: bool) -> str:  # noqa: FBT001
    if shared:
        return f"the calibrated graph has a tensor {name!r} with other values"
    return "the calibrated graph has no tensor of this name"
