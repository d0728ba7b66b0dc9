"""One sweep of the calibration data through a model that gives out its inner tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from enginery.errors import EngineError
from enginery.passes.base import Feeds, OpenModel, RunModel
from enginery.passes.calibration.batches import BatchCheck, Batches
from enginery.passes.calibration.derived import Derived, derived_histograms
from enginery.passes.calibration.digest import batch_digest, graph_digest
from enginery.passes.calibration.exposed import (
    dimension_names,
    observable_tensors,
    save_exposed,
    shapes_for,
    with_shapes,
)
from enginery.passes.calibration.histogram import Histogram
from enginery.passes.calibration.masks import Mask, mask_dimensions, valid_positions
from enginery.passes.calibration.tensor_statistics import TensorStatistics, channel_axis, observe

Progress = Callable[[int, int | None], None]
Count = Callable[[], int | None]
"""How many batches there are, asked after each: some data knows only once it was opened."""

OBSERVING = 2
"""Threads that observe tensors: numpy lets go of the interpreter's lock in all but the counting of histograms. More of
them wait for it longer than they work."""


@dataclass(frozen=True)
class Calibrated:
    """The model under calibration. `graph` is its ModelProto, shapes inferred, external weights not loaded."""

    model: Path
    digest: str
    graph: Any
    open_model: OpenModel
    inputs: tuple[str, ...]
    observable: tuple[str, ...]
    dims: Mapping[str, tuple[str, ...]]
    masks: Mapping[str, Sequence[str]]

    @classmethod
    def open(cls, model: Path, open_model: OpenModel, masks: Sequence[str]) -> Calibrated:
        import onnx

        graph = with_shapes(onnx.load(model, load_external_data=False))
        constant = {tensor.name for tensor in graph.graph.initializer}
        inputs = tuple(value.name for value in graph.graph.input if value.name not in constant)
        dims = dimension_names(graph)
        return cls(
            model=model,
            digest=graph_digest(model),
            graph=graph,
            open_model=open_model,
            inputs=inputs,
            observable=observable_tensors(graph),
            dims=dims,
            masks=mask_dimensions(masks, {name: dims.get(name, ()) for name in inputs}),
        )

    def expose(self, target: Path, tensors: Sequence[str], *, shapes: bool = False) -> RunModel:
        """Open a copy of the model, written to `target`, that returns `tensors` (or their shapes)."""
        save_exposed(self.graph, self.model, target, tensors, shapes=shapes)
        try:
            return self.open_model(target, optimize=True)
        except EngineError:
            # ONNX Runtime's own rewriting of Q/DQ pairs fails where unsigned and signed ones meet; literally it runs.
            return self.open_model(target)

    def first(self, feeds: Feeds, count: int) -> Feeds:
        """The first `count` samples of a batch; all of it where the inputs do not share a dynamic first dimension."""
        shared = {dims[0] if dims else "" for dims in (self.dims.get(name, ()) for name in self.inputs)}
        if len(shared) != 1 or "" in shared:
            return feeds
        return {name: array[:count].copy() for name, array in feeds.items()}

    def mask(self, tensor: str, rank: int, feeds: Feeds) -> Mask | None:
        """The valid positions of a tensor in one batch; None when all are, or its dimensions are not known."""
        dims = self.dims.get(tensor, ())
        return valid_positions(dims, channel_axis(rank), feeds, self.masks) if len(dims) == rank else None


@dataclass(frozen=True)
class Seen:
    """What a sweep has seen so far. It is replaced as a whole after each batch, so that Ctrl-C finds it consistent."""

    batches: tuple[str, ...] = ()
    samples: int = 0
    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict[str, TensorStatistics])


class Sweep:
    """Observes `tensors` over all batches; those that do not fit the budget end up in `put_off`."""

    def __init__(
        self, calibrated: Calibrated, tensors: Sequence[str], folder: Path, budget: int, *, histograms: bool
    ) -> None:
        self.seen = Seen()
        self.put_off: list[str] = []
        self._calibrated = calibrated
        self._tensors = list(tensors)
        self._folder = folder
        self._budget = budget
        self._histograms = histograms
        self._bound: dict[str, tuple[int, ...]] = {}
        self._session: RunModel | None = None
        self._derived: Mapping[str, Derived] = {}
        self._sweeps = 1

    def run(
        self,
        batches: Batches,
        check: BatchCheck | None,
        progress: Progress | None,
        *,
        before: int = 0,
        count: Count | None = None,
    ) -> None:
        """Go through all batches, except those that `seen` holds already.

        `progress` hears of `before` batches more, those of earlier sweeps; `count` tells the batches of one.
        """
        skip = Counter(self.seen.batches)
        with ThreadPoolExecutor(OBSERVING) as pool:
            for index, feeds in enumerate(batches()):
                if check is not None:
                    check(feeds, index)
                digest = batch_digest(feeds)
                if skip[digest] > 0:
                    skip[digest] -= 1
                    continue
                self._fit(feeds)
                self.seen = Seen(
                    batches=(*self.seen.batches, digest),
                    samples=self.seen.samples + _sample_count(feeds),
                    tensors=self._merged(feeds, pool),
                )
                if progress is not None:
                    total = count() if count is not None else None
                    progress(before + index + 1, None if total is None else before + total * self._sweeps)

    def _merged(self, feeds: Feeds, pool: Executor) -> dict[str, TensorStatistics]:
        if not self._tensors:  # a model without a linear layer or convolution
            return {}
        outputs = self._open()(feeds)
        histograms: dict[str, Histogram] = {}

        def merged(name: str) -> TensorStatistics | None:
            # Popped, so that each array is freed as soon as it was observed.
            array, before = outputs.pop(name), self.seen.tensors.get(name)
            derived, mask = self._derived.get(name), self._calibrated.mask(name, array.ndim, feeds)
            known = derived.of(histograms[derived.source]) if derived is not None and array.size else None
            part = observe(array, mask=mask, histograms=self._histograms, known=known)
            if part is None:
                return before
            histograms[name] = part.histogram
            return part if before is None else before.merge(part)

        found: dict[str, TensorStatistics | None] = {}
        for names in ([name for name in self._tensors if name not in self._derived], self._derived):
            found |= zip(names, pool.map(merged, names), strict=True)
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _open(self) -> RunModel:
        """The session that gives out what is observed, opened anew after some tensors were put off."""
        if self._session is None:
            self._session = self._calibrated.expose(self._folder / "tensors.onnx", self._tensors)
            if self._histograms and not self._calibrated.masks:  # A mask may apply to one shape and not to the other.
                self._derived = derived_histograms(self._calibrated.graph, frozenset(self._tensors))
        return self._session

    def _fit(self, feeds: Feeds) -> None:
        """Put tensors off until the rest fits the budget; measured anew for a batch larger than any before."""
        shapes = {name: array.shape for name, array in feeds.items()}
        if self._bound and all(_within(shape, self._bound[name]) for name, shape in shapes.items()):
            return
        self._bound = {name: _larger(shape, self._bound.get(name)) for name, shape in shapes.items()}
        sizes = self._sizes({name: array.dtype for name, array in feeds.items()})
        groups = list(_groups(self._tensors, sizes, self._budget))
        self._sweeps += len(groups) - 1
        if len(groups) > 1:
            self.put_off += [name for group in groups[1:] for name in group]
            self._tensors, self._session = groups[0], None

    def _sizes(self, dtypes: Mapping[str, Any]) -> dict[str, int]:
        """How many values each tensor holds at the bound; a run tells where shape inference does not."""
        known = shapes_for(self._calibrated.graph, self._bound)
        sizes = {name: math.prod(known[name]) for name in self._tensors if name in known}
        if unknown := [name for name in self._tensors if name not in sizes]:
            probe = self._calibrated.expose(self._folder / "shapes.onnx", unknown, shapes=True)
            found = probe({name: np.zeros(shape, dtypes[name]) for name, shape in self._bound.items()})
            sizes |= {name: int(np.prod(found[f"{name}.shape"])) for name in unknown}
        return sizes


def _groups(tensors: Sequence[str], sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """The tensors, in order, cut into groups that take no more than `budget` bytes as float32, or are one tensor."""
    group: list[str] = []
    used = 0
    for name in tensors:
        if group and used + 4 * sizes[name] > budget:
            yield group
            group, used = [], 0
        group.append(name)
        used += 4 * sizes[name]
    yield group


def _sample_count(feeds: Feeds) -> int:
    return max((array.shape[0] for array in feeds.values() if array.ndim), default=1)


def _within(shape: tuple[int, ...], bound: tuple[int, ...]) -> bool:
    return len(shape) == len(bound) and all(size <= limit for size, limit in zip(shape, bound, strict=True))


def _larger(shape: tuple[int, ...], bound: tuple[int, ...] | None) -> tuple[int, ...]:
    return shape if bound is None else tuple(map(max, shape, bound))
