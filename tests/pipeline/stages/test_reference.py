"""The original's answers: what is run, what is kept, and where the recipe and the original disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.engines.base import Arrays, DimRange, Feeds, TensorSpec
from enginery.errors import EngineError, StageError
from enginery.pipeline.comparison.reference import EvaluationReference, ShapesReference, digest_batch
from enginery.pipeline.stages.reference import reference_evaluation, reference_shapes

INPUTS = (TensorSpec("x", "float32", ("batch", "seq", 2)),)
DIMS = {"batch": DimRange(1, 2, 4), "seq": DimRange(2, 4, 8)}


def run(feeds: Feeds) -> Arrays:
    return {"y": feeds["x"] * 2, "pooled": feeds["x"].mean(1)}


@dataclass
class Sample:
    inputs: Arrays
    labels: np.ndarray[Any, Any] | None = None


def batches() -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for count in (3, 2):
        yield Sample({"x": rng.standard_normal((count, 5, 2)).astype(np.float32)}, np.arange(count))


def shapes(folder: Path, **options: Any) -> ShapesReference:
    given = {
        "run": run, "inputs": INPUTS, "dims": DIMS, "shapes": (), "declared": (), "batches": batches, "seed": 0,
        "progress": lambda *_: None,
    }  # fmt: skip
    reference_shapes(folder, **{**given, **options})
    return ShapesReference.open(folder)


def test_real_inputs_are_cut_and_repeated_to_every_shape(tmp_path: Path) -> None:
    found = shapes(tmp_path)
    assert {case.name for case in found.cases} >= {"opt", "min", "max", "odd", "batch-min", "seq-max"}
    real = next(iter(batches())).inputs["x"]
    for case in found.cases:
        x = found.inputs_of(case)["x"]
        assert x.shape == (case.sizes["batch"], case.sizes["seq"], 2)
        np.testing.assert_array_equal(x[0, : min(5, x.shape[1])], real[0, : min(5, x.shape[1])])
        np.testing.assert_array_equal(found.outputs_of(case)["y"], x * 2)
    assert not found.random


def test_the_recipes_own_shapes_are_run_too(tmp_path: Path) -> None:
    found = shapes(tmp_path, shapes=({"seq": 7},))
    assert found.case("shape-1").sizes == {"batch": 2, "seq": 7}
    assert found.outputs_of(found.case("shape-1"))["y"].shape == (2, 7, 2)


def test_outputs_get_the_names_of_the_dimensions_that_they_follow(tmp_path: Path) -> None:
    assert shapes(tmp_path).outputs == (
        TensorSpec("y", "float32", ("batch", "seq", 2)),
        TensorSpec("pooled", "float32", ("batch", 2)),
    )


def test_without_data_seeded_noise_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (shapes(tmp_path / name, batches=None) for name in ("a", "b"))
    assert one.random
    np.testing.assert_array_equal(one.inputs_of(one.cases[0])["x"], two.inputs_of(two.cases[0])["x"])


DECLARED = TensorSpec("y", "float32", ("batch", "seq", 2))


def test_a_declared_output_names_dimensions_of_its_own(tmp_path: Path) -> None:
    def cut(feeds: Feeds) -> Arrays:
        return {"y": feeds["x"][:, ::2]}

    declared = (TensorSpec("y", "float32", ("batch", "half", 2)),)
    assert shapes(tmp_path, run=cut, declared=declared).outputs == declared


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (TensorSpec("z", "float32", ("batch", 2)), r"declares the outputs \['z'\]; the original returns \['pooled',"),
        (TensorSpec("y", "float16", DECLARED.shape), "declares the output y: float16"),
        (TensorSpec("y", "float32", ("batch", "seq", 3)), r"the original returns y: float32\[batch, seq, 2\]"),
        (TensorSpec("y", "float32", ("batch", 2)), r"the original returns y: float32\[batch, seq, 2\]"),
        (TensorSpec("y", "float32", ("seq", "batch", 2)), r"the original returns y: float32\[batch, seq, 2\]"),
    ],
    ids=["absent", "dtype", "size", "rank", "order"],
)  # fmt: skip
def test_what_the_recipe_says_of_an_output_must_be_so(tmp_path: Path, declared: TensorSpec, words: str) -> None:
    with pytest.raises(StageError, match=words):
        shapes(tmp_path, declared=(declared,))


def test_an_original_that_fails_at_a_shape_is_named_with_it(tmp_path: Path) -> None:
    def fails(feeds: Feeds) -> Arrays:
        if feeds["x"].shape[1] == 8:
            raise EngineError("position 8 is out of range.")
        return run(feeds)

    with pytest.raises(StageError, match=r"fails at the declared shape max \(batch=4, seq=8\): position 8"):
        shapes(tmp_path, run=fails)


def test_a_rank_that_depends_on_the_sizes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"output 'y' has \[2, 3\] dimensions"):
        shapes(tmp_path, run=lambda feeds: {"y": feeds["x"].squeeze(0) if len(feeds["x"]) == 1 else feeds["x"]})


def test_data_without_a_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="holds no batch"):
        shapes(tmp_path, batches=lambda: iter(()))


def test_the_answers_on_data_are_kept_batch_by_batch(tmp_path: Path) -> None:
    heard: list[int] = []
    reference_evaluation(tmp_path, run=run, batches=batches, progress=lambda done, _: heard.append(done))
    found = EvaluationReference.open(tmp_path)
    assert (found.batches, found.samples, heard) == (2, 5, [1, 2])
    for number, batch in enumerate(batches()):
        np.testing.assert_array_equal(found.outputs_of(number)["y"], batch.inputs["x"] * 2)
        assert found.digests[number] == digest_batch(batch.inputs, batch.labels)
