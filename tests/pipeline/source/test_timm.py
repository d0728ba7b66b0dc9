import pytest
import torch
from safetensors.torch import save_file

from enginery.errors import SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source import load_original, source_digest
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.torchvision import prepare_torchvision

NAME = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def timm():
    prepare_torchvision()
    import timm

    return timm


def load(folder, name=NAME, **source):
    return load_original(Source(timm=name, **source), folder, trust=False, seed=0)


def test_random_weights_only_when_asked_for(timm, tmp_path):
    original = load(tmp_path, options={"pretrained": False, "num_classes": 5})
    assert original.module(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert original.provenance["pretrained"] is False


def test_pretrained_weights_out_of_reach_are_an_error(timm, tmp_path):
    with pytest.raises(SourceError, match=f"timm cannot create '{NAME}'.*Pin a weights file"):
        load(tmp_path)


def test_pinned_weights(timm, tmp_path):
    torch.manual_seed(1)
    model = timm.create_model(NAME, num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    pinned = {"path": "w.safetensors", "sha256": file_digest(tmp_path / "w.safetensors")}
    original = load(tmp_path, options={"num_classes": 5}, weights=pinned)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(original.module(image), model(image))


def test_a_classifier_that_would_be_random_is_refused(timm, tmp_path):
    save_file(timm.create_model(NAME).state_dict(), tmp_path / "w.safetensors")
    pretrained = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}}
    image = torch.zeros(1, 3, 64, 64)
    assert load(tmp_path, options=pretrained).module(image).shape == (1, 1000)
    assert load(tmp_path, options={**pretrained, "num_classes": 0}).module(image).ndim == 2
    with pytest.raises(SourceError, match=r"has 1000 classes; given num_classes=5, .* would be random"):
        load(tmp_path, options={**pretrained, "num_classes": 5})


def test_an_unknown_model_is_told(timm, tmp_path):
    with pytest.raises(SourceError, match=r"timm cannot create 'no_such_net'.*Unknown model"):
        load(tmp_path, "no_such_net", options={"pretrained": False})


def test_options_count_for_the_digest(tmp_path):
    one, other = (Source(timm=NAME, options={"num_classes": count}) for count in (5, 6))
    assert source_digest(one, tmp_path) != source_digest(other, tmp_path)
