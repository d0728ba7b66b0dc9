"""The original's answers: to real samples only."""

import json

import numpy as np
import pytest

from enginery.errors import StageError
from enginery.pipeline.data import Batch
from enginery.pipeline.stages.reference import reference_evaluation

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def evaluate(folder, *arrays):
    data = [Batch({"x": array}, None, "here") for array in arrays]
    reference_evaluation(
        folder, run=lambda feeds: {"y": feeds["x"] * 2}, batches=lambda: data, progress=lambda done, total: None
    )
    return json.loads((folder / "evaluation.json").read_text())


@pytest.mark.parametrize(
    "arrays", [(ROWS,), (ROWS[:1],), (ROWS[:2], ROWS[:2]), (ROWS[:1], ROWS[1:2]), (ROWS[:1], ROWS[:1, :2])]
)
def test_samples_that_differ_and_a_single_one(tmp_path, arrays):
    assert evaluate(tmp_path, *arrays)["samples"] == sum(map(len, arrays))


@pytest.mark.parametrize("arrays", [(ROWS[[0, 0]],), (ROWS[:1], ROWS[:1]), (np.zeros((8, 3), np.float32),)])
def test_placeholders_are_refused(tmp_path, arrays):
    with pytest.raises(StageError, match=r"all \d samples of the evaluation data are the same"):
        evaluate(tmp_path, *arrays)
