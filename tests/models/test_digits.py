import numpy as np
import pytest
import torch

from enginery.models.digits.data import batches, digits
from enginery.pipeline.data import open_data
from enginery.pipeline.data.metrics import get_metric
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.source import load_original


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("digits")


@pytest.fixture(scope="module")
def original(recipe):
    return load_original(recipe.recipe.source, recipe.folder, trust=False, seed=0)


def test_it_reads_held_out_digits(recipe, original):
    loaded = recipe.recipe
    metric = get_metric(loaded.metric, recipe.folder)
    for batch in open_data(loaded.data.evaluation, recipe.folder, loaded.inputs, loaded.dims).batches():
        with torch.inference_mode():
            metric.update({"logits": original.module(torch.from_numpy(batch.inputs["image"])).numpy()}, batch.labels)
    assert metric.result() > 0.97


def test_training_again_gives_the_same_weights_whatever_the_threads(recipe, original):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = load_original(recipe.recipe.source, recipe.folder, trust=False, seed=7)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert again.weights_digest == original.weights_digest


def test_training_and_evaluation_are_disjoint():
    (train, _), (evaluation, labels) = digits("train"), digits("evaluation")
    assert len(train) + len(evaluation) == 1797
    assert len(evaluation) == len(labels) == 360
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in evaluation}
    assert set(labels.tolist()) == set(range(10))


def test_batches_hold_all_images_in_order():
    images = np.concatenate([feeds["image"] for feeds, _ in batches("evaluation", batch=50)])
    assert np.array_equal(images, digits("evaluation")[0])
    assert images.min() == 0.0
    assert images.max() == 1.0
