"""`.predict`: a built bundle takes photos or texts and answers like its original on inputs prepared by the recipe."""

import io
import json

import numpy as np
import pytest
import yaml
from bundles import make_bundle
from tiny_recipes import run_build, write_module_recipe

import enginery
from enginery.errors import DataError, UsageError
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.preprocess import TOKENIZER
from enginery.pipeline.data import open_data
from enginery.pipeline.recipe.file import load_recipe

IMAGE_NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, photo):
        return self.head(photo.flatten(1))


def build():
    return Net()
"""

TEXT_NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(8, 4)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        return (self.words(input_ids) * mask).sum(1) / mask.sum(1)


def build():
    return Net()
"""

WORDS = ["[PAD]", "[UNK]", "the", "cat", "sat", "on", "a", "mat"]
SENTENCES = ["the cat sat", "the cat sat on a mat", "a dog", "mat"] * 5


def photos():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(20)]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """(bundle, recipe's file) of a net on photos, resized, cropped and normalized."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("image")
    (folder / "photos").mkdir()
    for place, photo in enumerate(photos()):
        Image.fromarray(photo).save(folder / "photos" / f"{place:02}.png")
    data = {
        "images": "photos",
        "image": {"resize": 10, "crop": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    recipe = write_module_recipe(
        folder,
        IMAGE_NET,
        inputs={"photo": {"dtype": "float32", "shape": ["batch", 3, 8, 8]}},
        data={"calibration": data, "evaluation": data},
    )
    return run_build(recipe, folder / "build").bundle, recipe


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """(bundle, recipe's file) of a net on tokenized sentences."""
    pytest.importorskip("tokenizers", reason="the extra `hf` is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("text")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "lines.txt").write_text("\n".join(SENTENCES))
    data = {"text": "lines.txt", "tokenize": {"tokenizer": "tokenizer.json", "max_length": 5}}
    recipe = write_module_recipe(
        folder,
        TEXT_NET,
        inputs={name: {"dtype": "int64", "shape": ["batch", "seq"]} for name in ("input_ids", "attention_mask")},
        dims={"batch": {"min": 1, "opt": 4, "max": 8}, "seq": {"min": 1, "opt": 4, "max": 6}},
        data={"calibration": data, "evaluation": data},
    )
    return run_build(recipe, folder / "build").bundle, recipe


def by_arrays(bundle, recipe):
    """The engine's answers to the batches that the recipe's own data reader makes."""
    loaded = load_recipe(str(recipe))
    data = open_data(loaded.recipe.data.evaluation, loaded.folder, loaded.recipe.inputs, loaded.recipe.dims)
    with enginery.load(bundle) as session:
        name = session.outputs[0].name
        return np.concatenate([session.run(batch.inputs)[name] for batch in data.batches()])


def test_photos_answer_as_the_recipe_reads_them(image):
    with enginery.load(image[0]) as session:
        (answers,) = session.predict(photos()).values()
    np.testing.assert_allclose(answers, by_arrays(*image), rtol=1e-5, atol=1e-6)


def test_an_image_may_be_a_path_bytes_an_array_or_an_image(image):
    from PIL import Image

    path = image[1].parent / "photos" / "03.png"
    buffer = io.BytesIO()
    Image.fromarray(photos()[3]).save(buffer, "PNG")
    with enginery.load(image[0]) as session:
        forms = [path, str(path), buffer.getvalue(), photos()[3], Image.fromarray(photos()[3])]
        (answers,) = session.predict(forms).values()
    np.testing.assert_array_equal(answers, np.repeat(answers[:1], len(forms), axis=0))


def test_texts_answer_as_the_recipe_reads_them(text):
    with enginery.load(text[0]) as session:
        (answers,) = session.predict(SENTENCES).values()
    assert len(answers) == len(SENTENCES)
    np.testing.assert_allclose(answers, by_arrays(*text), rtol=1e-5, atol=1e-6)


def test_more_items_than_the_largest_batch_are_run_in_parts(text):
    with enginery.load(text[0]) as session:
        (answers,) = session.predict(SENTENCES * 3).values()
        (alone,) = session.predict(SENTENCES[:1]).values()
    np.testing.assert_allclose(answers[20], alone[0], rtol=1e-5, atol=1e-6)
    assert len(answers) == 60


def test_the_tokenizer_is_pinned_in_the_bundle(text):
    manifest = Bundle.open(text[0]).manifest
    assert manifest.preprocess is not None
    assert manifest.preprocess.file == TOKENIZER
    assert TOKENIZER in manifest.files
    assert (text[0] / TOKENIZER).read_bytes() == (text[1].parent / "tokenizer.json").read_bytes()
    assert manifest.preprocess.options == {"max_length": 5}


def test_answers_are_postprocessed_as_the_bundle_pins_it(image):
    folder, labels = image[1].parent, ["cat", "dog", "hen", "pig"]
    (folder / "labels.txt").write_text("\n".join(labels))
    recipe = yaml.safe_load(image[1].read_text()) | {
        "outputs": {"scores": {"shape": ["batch", 4]}},
        "postprocess": {"scores": {"apply": "softmax", "top": 2, "labels": "labels.txt"}},
    }
    (folder / "answers.yaml").write_text(yaml.safe_dump(recipe))
    bundle = run_build(folder / "answers.yaml", folder / "answers").bundle
    (folder / "labels.txt").unlink()
    with enginery.load(bundle) as session:
        answers = session.predict(photos())
    raw = np.exp(by_arrays(*image))
    expected = raw / raw.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(answers["scores"][:, 0], expected.max(axis=-1), rtol=1e-5)
    assert answers["scores.label"][:, 0].tolist() == [labels[place] for place in expected.argmax(axis=-1)]
    assert answers["scores.index"].shape == (20, 2)


def test_the_preprocessing_is_pinned_in_the_manifest(image):
    document = json.loads((image[0] / "manifest.json").read_bytes())
    assert document["preprocess"]["kind"] == "image"
    assert document["preprocess"]["options"]["crop"] == 8
    assert document["preprocess"]["options"]["mean"] == [0.5, 0.4, 0.3]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "nothing to predict"),
        ([3], "Item 0 is of type int; this engine takes images"),
        ([b"no image"], "Item 0 cannot be read as an image"),
        (["nowhere.png"], "Item 0 cannot be read as an image: .*nowhere.png"),
        ([np.zeros((2, 3), np.complex64)], "Item 0 cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_named(image, items, words):
    with enginery.load(image[0]) as session, pytest.raises(DataError, match=words):
        session.predict(items)


def test_what_is_no_text_is_named(text):
    with enginery.load(text[0]) as session, pytest.raises(DataError, match="Item 1 is of type bytes"):
        session.predict(["the cat", b"sat"])


def test_a_recipe_without_preprocessing_has_no_predict(tmp_path):
    with (
        enginery.load(make_bundle(tmp_path / "b")) as session,
        pytest.raises(UsageError, match="tiny declares no preprocessing"),
    ):
        session.predict([np.zeros(6)])
