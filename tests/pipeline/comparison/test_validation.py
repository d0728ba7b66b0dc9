"""One engine against one reference: what is run, what is compared, and what cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.engines.base import Arrays, DimRange, Feeds, Session, TensorSpec
from enginery.errors import DataError, EngineError
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.comparison.reference import (
    EvaluationReference,
    ShapesReference,
    digest_batch,
    write_batch,
    write_case,
    write_evaluation,
    write_shapes,
)
from enginery.pipeline.comparison.shapes import Case
from enginery.pipeline.comparison.validation import Validation
from enginery.pipeline.data.metrics import Agreement, Top1

X = TensorSpec("x", "float32", ("batch", 3))
Y = TensorSpec("y", "float32", ("batch", 3))
CASES = (Case("opt", {"batch": 2}), Case("max", {"batch": 4}))


def original(feeds: Feeds) -> Arrays:
    return {"y": feeds["x"] * 2 + 1}


class Stub(Session):
    """A session that answers by a function."""

    def __init__(self, answer: Callable[[Feeds], Arrays]) -> None:
        super().__init__((X,), (Y,), {"batch": DimRange(1, 2, 4)})
        self._answer = answer

    def _run(self, feeds: Feeds) -> Arrays:
        return self._answer(feeds)

    def describe(self) -> dict[str, Any]:
        return {"runtime": "stub"}


@dataclass
class Sample:
    inputs: Arrays
    labels: np.ndarray[Any, Any] | None = None


def samples(count: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample({"x": rng.standard_normal((2, 3)).astype(np.float32)}, np.array([0, 1])) for _ in range(count)]


@pytest.fixture
def shapes(tmp_path: Path) -> ShapesReference:
    folder = tmp_path / "shapes"
    folder.mkdir()
    for case in CASES:
        feeds = {"x": np.random.default_rng(1).standard_normal((case.sizes["batch"], 3)).astype(np.float32)}
        write_case(folder, case, feeds, original(feeds))
    write_shapes(folder, [Y], CASES, random=False)
    return ShapesReference.open(folder)


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluationReference:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for number, sample in enumerate(samples(3)):
        write_batch(folder, number, original(sample.inputs))
    write_evaluation(folder, [digest_batch(each.inputs, each.labels) for each in samples(3)], 6)
    return EvaluationReference.open(folder)


def measure(
    shapes: ShapesReference,
    evaluation: EvaluationReference | None = None,
    data: list[Sample] | None = None,
    answer: Callable[[Feeds], Arrays] = original,
    **options: Any,
) -> Measured:
    def batches() -> Iterator[Sample]:
        return iter(samples(3) if data is None else data)

    return Validation(Stub(answer), shapes, (X,), {}, evaluation, batches=batches, **options).measure()


def test_every_shape_and_all_data_are_compared(shapes: ShapesReference, evaluation: EvaluationReference) -> None:
    heard: list[tuple[int, int | None]] = []
    found = measure(shapes, evaluation, progress=lambda done, total: heard.append((done, total)))
    assert [case.case for case in found.cases] == ["opt (batch=2)", "max (batch=4)"]
    assert found.evaluation[0].samples == 6
    assert found.faults == ()
    assert found.metric is None
    assert heard == [(done, 5) for done in range(1, 6)]


def test_without_data_the_shapes_alone_are_compared(shapes: ShapesReference) -> None:
    found = measure(shapes)
    assert found.evaluation == ()
    assert len(found.cases) == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (samples(2), "now ends after 2 batches of 3"),
        ([], "now ends after 0 batches of 3"),
        (samples(4), "now goes on after its 3 batches"),
        (samples(3, seed=9), "Batch 1 of the evaluation data is not the one"),
        ([*samples(2), Sample(samples(3)[2].inputs, np.array([1, 1]))], "Batch 3 of the evaluation data is not"),
    ],
    ids=["shorter", "empty", "longer", "another", "another label"],
)
def test_other_data_than_the_original_answered_is_refused(
    data: list[Sample], words: str, shapes: ShapesReference, evaluation: EvaluationReference
) -> None:
    with pytest.raises(DataError, match=words):
        measure(shapes, evaluation, data)


def test_an_engine_that_fails_at_a_shape_is_a_fault_and_is_asked_no_more(
    shapes: ShapesReference, evaluation: EvaluationReference
) -> None:
    def answer(feeds: Feeds) -> Arrays:
        if len(feeds["x"]) == 4:
            raise EngineError("out of memory")
        return original(feeds)

    found = measure(shapes, evaluation, answer=answer, score=Top1)
    assert found.faults == ("the engine fails at max (batch=4): out of memory",)
    assert [case.case for case in found.cases] == ["opt (batch=2)"]
    assert found.evaluation[0].samples == 0
    assert found.metric is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda y: {}, "output 'y' is absent"),
        (lambda y: {"y": y.astype(np.float64)}, "has dtype float64"),
        (lambda y: {"y": y[:, :2]}, r"has shape \[2, 2\]"),
        (lambda y: {"y": np.where(y == y.max(), np.nan, y)}, "NaN or infinite"),
    ],
    ids=["absent", "dtype", "shape", "nan"],
)
def test_an_output_that_is_not_as_declared_is_a_fault(
    spoil: Callable[[np.ndarray[Any, Any]], Arrays], words: str, shapes: ShapesReference
) -> None:
    found = measure(shapes, answer=lambda feeds: spoil(original(feeds)["y"]))
    assert any(re.search(words, fault) for fault in found.faults)


def test_the_metric_is_that_of_the_labels(shapes: ShapesReference, evaluation: EvaluationReference) -> None:
    right = [np.argmax(original(each.inputs)["y"], axis=1) == each.labels for each in samples(3)]
    found = measure(shapes, evaluation, score=Top1, answer=lambda feeds: {"y": -original(feeds)["y"]})
    assert found.metric is not None
    assert found.metric.original == pytest.approx(np.mean(right))
    assert found.metric.engine != found.metric.original


def test_a_metric_may_take_the_original_for_the_labels(
    shapes: ShapesReference, evaluation: EvaluationReference
) -> None:
    found = measure(shapes, evaluation, score=Agreement, answer=lambda feeds: {"y": -original(feeds)["y"]})
    assert found.metric is not None
    assert (found.metric.original, found.metric.engine) == (1.0, 0.0)
