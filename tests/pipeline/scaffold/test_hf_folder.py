"""`enginery init FOLDER`: the class that a Hugging Face folder names says what it takes."""

import json

import numpy as np
import pytest

import enginery
from enginery.errors import SourceError, UsageError
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.scaffold import scaffold
from enginery.pipeline.source.torchvision import prepare_torchvision

TEXT = {"input_ids": ("batch", "seq"), "attention_mask": ("batch", "seq")}
ANSWERS = {"decoder_input_ids": ("batch", "decoder_seq")}
IMAGE = {"pixel_values": ("batch", 3, 32, 64)}


def written(tmp_path, config: dict, preprocessor: dict | None = None, tokenizer: bool = False):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    scaffold(str(folder), tmp_path / "out", name="b")
    return load_recipe(str(tmp_path / "out")).recipe


def config(name: str, kind: str, **more: object) -> dict:
    return {"architectures": [name], "model_type": kind, **more}


@pytest.mark.parametrize(
    ("found", "preprocessor", "inputs"),
    [
        (config("BertForSequenceClassification", "bert"), None, TEXT),
        (config("T5ForConditionalGeneration", "t5"), None, TEXT | ANSWERS),
        (config("ViTForImageClassification", "vit", image_size=[32, 64]), None, IMAGE),
        (config("ResNetForImageClassification", "resnet"), {"size": {"height": 32, "width": 64}}, IMAGE),
        (
            config("ResNetForImageClassification", "resnet"),
            {"do_center_crop": True, "crop_size": {"height": 32, "width": 64}, "size": {"shortest_edge": 48}},
            IMAGE,
        ),
        (config("CLIPModel", "clip", vision_config={"image_size": [32, 64]}), None, TEXT | IMAGE),
        (config("Wav2Vec2ForCTC", "wav2vec2"), None, {"input_values": ("batch", "samples")}),
        (
            config("WhisperForConditionalGeneration", "whisper", num_mel_bins=80, max_source_positions=100),
            None,
            {"input_features": ("batch", 80, 200)} | ANSWERS,
        ),
    ],
)
def test_the_inputs_of_a_class(tmp_path, found, preprocessor, inputs):
    recipe = written(tmp_path, found, preprocessor)
    assert recipe.source.hf == "../mine"
    assert {name: tensor.shape for name, tensor in recipe.inputs.items()} == inputs
    assert recipe.data.calibration is not None
    assert recipe.data.calibration.kind == "python"


def test_sentences_where_there_is_a_tokenizer_no_longer_than_the_models_positions(tmp_path):
    recipe = written(tmp_path, config("BertModel", "bert", max_position_embeddings=100), tokenizer=True)
    assert recipe.data.calibration is not None
    assert recipe.data.calibration.text == "sentences.txt"
    assert recipe.data.calibration.tokenize is not None
    assert recipe.data.calibration.tokenize.max_length == 100
    assert (recipe.dims["seq"].opt, recipe.dims["seq"].max) == (100, 100)


def test_a_size_that_no_file_tells(tmp_path):
    with pytest.raises(UsageError, match=r"input pixel_values\. .*--input 'pixel_values:float32\[batch,3,224,224\]'"):
        written(tmp_path, config("ResNetForImageClassification", "resnet"))


def test_a_folder_that_names_no_class(tmp_path):
    with pytest.raises(SourceError, match=r"cannot read .*config\.json"):
        written(tmp_path, {"vocab_size": 9})


@pytest.mark.slow
def test_what_is_written_for_a_classifier_builds_a_classifier(tmp_path):
    prepare_torchvision()
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16,
            patch_size=8, num_labels=3,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "vit")
    images = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", pixel_values=images)
    scaffold(str(tmp_path / "vit"), tmp_path / "out", name="vit", data=tmp_path / "images.npz")
    bundle = enginery.build(tmp_path / "out" / "recipe.yaml", output=tmp_path / "build")
    with enginery.load(bundle) as session, torch.inference_mode():
        answer = session.run({"pixel_values": images[:3]})
        assert list(answer) == ["logits"]
        wanted = model(pixel_values=torch.from_numpy(images[:3])).logits.numpy()
    np.testing.assert_allclose(answer["logits"], wanted, atol=1e-4)
