"""Task metrics, measured while outputs stream by. Memory holds a few numbers per sample, never outputs."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Arrays, Feeds
from enginery.errors import DataError
from enginery.pipeline.ranking import largest_first
from enginery.pipeline.recipe import Metric
from enginery.pipeline.source.callables import Reference, guarded, import_callable

Labels = npt.NDArray[Any] | None


_LARGEST_LOSS = 700.0
"""Its exponential is still a number (1e304): an engine that lost everything has a figure to be refused for."""


class StreamingMetric(ABC):
    """One measurement. `update` takes one batch after the other; `result` closes the measurement.

    `needs` says what the labels are: the data's own, or (`reference`) the original's array of the scored output.
    """

    needs: ClassVar[Literal["labels", "reference"]] = "labels"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, output: str | None = None) -> None:
        self._output = output

    def update(self, outputs: Feeds, labels: Labels) -> None:
        """Count one batch: outputs by name, in the model's order, and its labels.

        Raises:
            DataError: there are no labels, or their shape does not fit the scored output.
        """
        name = self._output or next(iter(outputs))
        if name not in outputs:
            raise DataError(f"The metric scores the output {name!r}; the model has {list(outputs)}.")
        if labels is None:
            raise DataError(f"{type(self).__name__} needs labels, and the evaluation data has none.")
        self._update(np.asarray(outputs[name]), np.asarray(labels))

    @abstractmethod
    def result(self) -> float:
        """The figure over all batches.

        Raises:
            DataError: nothing was counted.
        """

    @abstractmethod
    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None: ...


class TopK(StreamingMetric):
    """The share of labels among the k largest of the last axis. Output [n, ..., classes], labels int [n, ...]."""

    k: ClassVar[int] = 1

    def __init__(self, output: str | None = None) -> None:
        super().__init__(output)
        self._right = 0
        self._all = 0

    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        if output.shape[:-1] != labels.shape:
            raise DataError(f"An output of shape {list(output.shape)} has labels of shape {list(labels.shape)}.")
        _must_be_classes(labels, output.shape[-1])
        best = largest_first(output)[..., : self.k]
        self._right += int((best == labels[..., None]).any(-1).sum())
        self._all += labels.size

    def result(self) -> float:
        return self._right / _counted(self._all)


class Top1(TopK):
    pass


class Top5(TopK):
    k = 5


class Agreement(StreamingMetric):
    """The share of samples for which engine and original have their largest value in the same place."""

    needs = "reference"

    def __init__(self, output: str | None = None) -> None:
        super().__init__(output)
        self._same = 0
        self._all = 0

    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        if output.shape != labels.shape:
            raise DataError(f"The engine's output has shape {list(output.shape)}, the original's {list(labels.shape)}.")
        same = output.argmax(-1) == labels.argmax(-1)
        self._same += int(same.sum())
        self._all += same.size

    def result(self) -> float:
        return self._same / _counted(self._all)


class SpearmanPairs(StreamingMetric):
    """Spearman's rank correlation of labels with the cosine of paired embeddings.

    Output float [2n, width], of which rows 2i and 2i+1 are a pair; labels [n]. Ties share the mean of their ranks.
    """

    def __init__(self, output: str | None = None) -> None:
        super().__init__(output)
        self._cosines: list[npt.NDArray[np.float64]] = []
        self._labels: list[npt.NDArray[np.float64]] = []

    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        if output.ndim != 2 or len(output) != 2 * len(labels):
            raise DataError(
                f"Pairs: an output of shape {list(output.shape)} has {len(labels)} labels; expected two rows for each."
            )
        first, second = output[0::2].astype(np.float64), output[1::2].astype(np.float64)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        self._cosines.append((first * second).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny))
        self._labels.append(labels.astype(np.float64))

    def result(self) -> float:
        _counted(len(self._labels))
        ranks = [_ranks(np.concatenate(values)) for values in (self._cosines, self._labels)]
        if any(np.ptp(values) == 0 for values in ranks):
            raise DataError("Spearman's correlation is undefined: all cosines, or all labels, are equal.")
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


class Perplexity(StreamingMetric):
    """exp of the mean negative log likelihood of the labels. Logits [n, seq, classes], labels int [n, seq].

    Labels are the tokens that follow; negative ones (padding) are not counted.
    """

    higher_is_better = False

    def __init__(self, output: str | None = None) -> None:
        super().__init__(output)
        self._loss = 0.0
        self._all = 0

    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        if output.shape[:-1] != labels.shape:
            raise DataError(f"Logits of shape {list(output.shape)} have labels of shape {list(labels.shape)}.")
        counted = labels >= 0
        _must_be_classes(labels[counted], output.shape[-1])
        logits = output[counted].astype(np.float64)
        peak = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(-1)) + peak[:, 0]
        self._loss += float((total - logits[np.arange(len(logits)), labels[counted]]).sum())
        self._all += int(counted.sum())

    def result(self) -> float:
        return float(np.exp(min(self._loss / _counted(self._all), _LARGEST_LOSS)))


class PythonMetric(StreamingMetric):
    """A user's function over an iterator of (outputs, labels) pairs, run in a thread that is fed batch by batch."""

    def __init__(self, function: Callable[[Iterator[tuple[Arrays, Labels]]], float], reference: Reference) -> None:
        super().__init__()
        self._reference = reference
        self._pairs: queue.Queue[tuple[Arrays, Labels] | None] = queue.Queue(maxsize=2)
        self._answer: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(function,), daemon=True)
        self._thread.start()

    def update(self, outputs: Feeds, labels: Labels) -> None:
        self._put((dict(outputs), labels))

    def result(self) -> float:
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        value = self._answer[0]
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
            raise DataError(f"The metric {self._reference.text!r} returned {value!r}; expected a finite number.")
        return float(value)

    def _update(self, output: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        raise NotImplementedError  # `update` hands over whole batches

    def _put(self, item: tuple[Arrays, Labels] | None) -> None:
        # A function that returned or raised reads no more: without the timeout this would wait for ever.
        while self._thread.is_alive():
            try:
                self._pairs.put(item, timeout=0.05)
            except queue.Full:
                continue
            return

    def _work(self, function: Callable[[Iterator[tuple[Arrays, Labels]]], float]) -> None:
        try:
            with guarded(self._reference, DataError, "measuring"):
                self._answer.append(function(iter(self._pairs.get, None)))
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            self._error = error


METRICS: Mapping[str, type[StreamingMetric]] = {
    "top1": Top1,
    "top5": Top5,
    "spearman-pairs": SpearmanPairs,
    "perplexity": Perplexity,
    "agreement": Agreement,
}


def get_metric(metric: Metric, folder: Path) -> StreamingMetric:
    """A fresh measurement of the recipe's metric.

    Raises:
        DataError: the recipe's callable cannot be imported.
    """
    if metric.name is not None:
        return METRICS[metric.name](metric.output)
    assert metric.python is not None
    reference = Reference.parse(metric.python, folder)
    return PythonMetric(import_callable(reference, DataError), reference)


def _must_be_classes(labels: npt.NDArray[Any], classes: int) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(f"Labels are of type {labels.dtype}; expected integers, the places of the right classes.")
    strange = labels[(labels < 0) | (labels >= classes)]
    if strange.size:
        raise DataError(
            f"A label is {strange.flat[0]}, and the output has {classes} classes, counted from 0. "
            "Correct the labels, or score with a function of your own: `metric: {python: file.py:function}`."
        )


def _counted(count: int) -> int:
    if count == 0:
        raise DataError("The metric counted no sample: the evaluation data has no labels that count.")
    return count


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]
