"""Runs an engine at every shape and on all evaluation data, and measures how far it is from the original.

Both the validate stage and `enginery validate BUNDLE` call this. Memory holds one batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy.typing as npt

from enginery.engines.base import Arrays, Feeds, Session, TensorSpec
from enginery.errors import DataError, EngineError, InputError
from enginery.pipeline.comparison.figures import CaseFigures, Measured, MetricFigures
from enginery.pipeline.comparison.outputs import Comparer, check_declared, compare
from enginery.pipeline.comparison.reference import Batch, Batches, EvaluationReference, ShapesReference, digest_batch
from enginery.pipeline.comparison.shapes import sizes_of

Labels = npt.NDArray[Any] | None


_STEADY: Final = (
    "It must give the same samples in the same order each time: fix seeds, and build again if a file was being changed."
)


class Score(Protocol):
    """One measurement of a task metric. `needs` is `labels`, or `reference` for the original's outputs."""

    needs: ClassVar[Literal["labels", "reference"]]

    def update(self, outputs: Feeds, labels: Labels) -> None: ...

    def result(self) -> float: ...


@dataclass
class Validation:
    """One engine against one reference.

    `evaluation` holds the answers that the engine is compared with; `original` those that the metric's loss is counted
    from (default: the same; with module passes the two differ). `valid` maps outputs to the inputs that mask their
    valid positions. `score` begins a measurement of the task metric, if there is one, and `scored` is the output that
    it reads. `progress` hears (runs done, runs in all).
    """

    session: Session
    shapes: ShapesReference
    inputs: Sequence[TensorSpec]
    valid: Mapping[str, str]
    evaluation: EvaluationReference | None = None
    original: EvaluationReference | None = None
    batches: Batches | None = None
    score: Callable[[], Score] | None = None
    scored: str | None = None
    progress: Callable[[int, int | None], None] = lambda _done, _total: None
    _faults: list[str] = field(default_factory=list[str], init=False)
    _done: int = field(default=0, init=False)

    def measure(self) -> Measured:
        cases = tuple(self._measure_case(case.name) for case in self.shapes.cases)
        comparer = Comparer(self.shapes.outputs, self.inputs, self.valid)
        metric = None
        if self.evaluation is not None and self.batches is not None and not self._faults:
            metric = self._measure_evaluation(self.evaluation, self.batches, comparer)
        return Measured(
            faults=tuple(self._faults),
            cases=tuple(case for case in cases if case is not None),
            evaluation=comparer.figures() if self.evaluation is not None else (),
            metric=metric,
            session=self.session.describe(),
            kernels=self.session.kernels(),
        )

    def _measure_case(self, name: str) -> CaseFigures | None:
        case = self.shapes.case(name)
        feeds = self.shapes.inputs_of(case)
        outputs = self._run(feeds, f"at {case}")
        if outputs is None:
            return None
        found = compare(
            self.shapes.outputs_of(case), outputs, self.shapes.outputs, 0.0,
            inputs=feeds, valid=self.valid, input_specs=self.inputs,
        )  # fmt: skip
        return CaseFigures(str(case), found.outputs)

    def _measure_evaluation(
        self, evaluation: EvaluationReference, batches: Batches, comparer: Comparer
    ) -> MetricFigures | None:
        """One pass over the data: compare, and score both the engine and the original."""
        scores = (self.score(), self.score()) if self.score is not None else None
        count = 0
        for number, batch in enumerate(batches()):
            _must_be_same(batch, number, evaluation)
            outputs = self._run(batch.inputs, f"on batch {number + 1} of the evaluation data")
            if outputs is None:
                return None
            expected = evaluation.outputs_of(number)
            comparer.add(expected, outputs, batch.inputs)
            original = expected if self.original is None else self.original.outputs_of(number)
            for score, answers in zip(scores or (), (original, outputs), strict=False):
                score.update(answers, self._labels(score, original, batch.labels))
            count = number + 1
        if count != evaluation.batches:
            raise DataError(f"The evaluation data now ends after {count} batches of {evaluation.batches}. {_STEADY}")
        if scores is None or self._faults:
            return None
        return MetricFigures(original=scores[0].result(), engine=scores[1].result())

    def _labels(self, score: Score, original: Feeds, labels: Labels) -> Labels:
        if score.needs == "labels":
            return labels
        return original[self.scored or self.shapes.outputs[0].name]

    def _run(self, feeds: Feeds, where: str) -> Arrays | None:
        """Run once. A failure is a fault that the gates judge; so is an output that is not as declared."""
        self._done += 1
        total = len(self.shapes.cases) + (self.evaluation.batches if self.evaluation is not None else 0)
        self.progress(self._done, total)
        try:
            outputs = self.session.run(feeds)
        except (EngineError, InputError) as error:
            self._faults.append(f"the engine fails {where}: {error}")
            return None
        faults = check_declared(outputs, self.shapes.outputs, sizes_of(feeds, self.inputs))
        self._faults += [f"{fault}, {where}" for fault in faults]
        if any(spec.name not in outputs for spec in self.shapes.outputs):
            return None
        return outputs


def _must_be_same(batch: Batch, number: int, evaluation: EvaluationReference) -> None:
    """The engine must be asked what the original was asked, or the comparison says nothing."""
    if number >= evaluation.batches:
        raise DataError(f"The evaluation data now goes on after its {evaluation.batches} batches. {_STEADY}")
    if digest_batch(batch.inputs, batch.labels) != evaluation.digests[number]:
        raise DataError(
            f"Batch {number + 1} of the evaluation data is not the one that the original answered. {_STEADY}"
        )
