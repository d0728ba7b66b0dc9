"""The recipes of the development data: each original reproduces the published figure that its recipe expects."""

from pathlib import Path

import pytest
import torch

from enginery.pipeline.data import open_data
from enginery.pipeline.data.metrics import get_metric
from enginery.pipeline.recipe.file import LoadedRecipe, load_recipe
from enginery.pipeline.source import load_original

HERE = Path(__file__).parent
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "kws",
        "stories",
        pytest.param("cifar/resnet20.yaml", marks=slow),
        pytest.param("cifar/resnet56.yaml", marks=slow),
        pytest.param("mobilenet", marks=slow),
        pytest.param("squeezenet", marks=slow),
        pytest.param("sts", marks=slow),
    ],
)
def test_the_original_reproduces_its_figure(shared_data, name):
    loaded = load_recipe(str(HERE / name))
    expected = loaded.recipe.metric
    assert measure(loaded) == pytest.approx(expected.expected, abs=expected.expected_tolerance)


@pytest.mark.parametrize("name", ["kws", "stories", "cifar/resnet20.yaml", "mobilenet", "squeezenet", "sts"])
def test_calibration_data_is_real_and_checked(shared_data, name):
    loaded = load_recipe(str(HERE / name))
    recipe = loaded.recipe
    data = open_data(recipe.data.calibration, loaded.folder, recipe.inputs, recipe.dims)
    assert sum(len(next(iter(batch.inputs.values()))) for batch in data.batches()) >= 25


def measure(loaded: LoadedRecipe) -> float:
    recipe = loaded.recipe
    original = load_original(recipe.source, loaded.folder, trust=False, seed=recipe.seed)
    metric = get_metric(recipe.metric, loaded.folder)
    for batch in open_data(recipe.data.evaluation, loaded.folder, recipe.inputs, recipe.dims).batches():
        with torch.inference_mode():
            answer = original.module(**{name: torch.from_numpy(array) for name, array in batch.inputs.items()})
        metric.update({next(iter(recipe.outputs)): answer.numpy()}, batch.labels)
    return metric.result()
