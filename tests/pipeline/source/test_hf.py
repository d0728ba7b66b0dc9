import json
import shutil

import pytest
import torch

from enginery.errors import RecipeError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source import load_original, source_digest
from enginery.pipeline.source.hf_class import answer
from enginery.pipeline.source.torchvision import prepare_torchvision

TINY = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.randint(1, 60, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def transformers():
    prepare_torchvision()
    import transformers

    return transformers


@pytest.fixture(scope="module")
def bert(transformers, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, num_labels=3)).save_pretrained(folder)
    return folder


def load(folder, *inputs: str, **options):
    return load_original(Source(hf=folder.name, options=options), folder.parent, trust=False, seed=0, inputs=inputs)


def steps(original) -> list[str]:
    """What was done to this model; what was done to torchvision concerns the machine."""
    return [step for step in original.preparation if not step.startswith("torchvision")]


def test_the_model_takes_the_recipes_inputs_and_returns_tensors_by_name(transformers, bert):
    original = load(bert, "input_ids", "attention_mask", task="text-classification")
    mask = torch.ones_like(IDS)
    reference = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    with torch.inference_mode():
        wanted = reference(input_ids=IDS, attention_mask=mask).logits
        assert torch.equal(original.module(IDS, mask)["logits"], wanted)
        assert torch.equal(original.module(attention_mask=mask, input_ids=IDS)["logits"], wanted)
    assert original.provenance["class"] == "BertForSequenceClassification"
    assert str(bert.parent) not in repr(original.provenance)


def test_outputs_are_chosen_by_name(bert):
    original = load(bert, "input_ids", task="feature-extraction", outputs=["pooler_output", "last_hidden_state"])
    shapes = {name: tuple(field.shape) for name, field in original.module(IDS).items()}
    assert shapes == {"pooler_output": (2, 16), "last_hidden_state": (2, 7, 16)}


def test_a_field_that_the_answer_lacks_lists_those_that_it_has(bert):
    module = load(bert, "input_ids", outputs=["pooler_output"]).module
    with pytest.raises(RecipeError, match=r"no \['pooler_output'\]; it has: logits"):
        module(IDS)


def test_without_a_task_the_model_keeps_the_head_that_it_was_trained_with(transformers, bert, capfd):
    original = load(bert, "input_ids")
    reference = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    capfd.readouterr()
    with torch.inference_mode():
        assert torch.equal(original.module(IDS)["logits"], reference(input_ids=IDS).logits)
    assert steps(original) == []


def test_what_another_task_leaves_out_is_on_record(bert, capfd):
    original = load(bert, "input_ids", task="feature-extraction")
    assert steps(original) == ["left out: classifier.bias, classifier.weight, for which BertModel has no place"]
    assert capfd.readouterr().err == "", "transformers' own bars and tables"


def test_weights_that_would_be_random_are_refused(bert):
    with pytest.raises(SourceError, match=r"BertForMaskedLM needs .* lacks .*: cls\.predictions.* and \d+ more"):
        load(bert, "input_ids", task="fill-mask")


def test_weights_of_another_shape_are_refused(bert):
    with pytest.raises(SourceError, match=r"in another shape: classifier\.bias, classifier\.weight"):
        load(bert, "input_ids", num_labels=5, ignore_mismatched_sizes=True)


def test_a_pooler_that_nobody_trained_is_taken_out(transformers, tmp_path):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**TINY), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "no-pooler")
    original = load(tmp_path / "no-pooler", "input_ids")
    with torch.inference_mode():
        assert torch.equal(original.module(IDS)["last_hidden_state"], model(input_ids=IDS).last_hidden_state)
    assert [step.partition(":")[0] for step in steps(original)] == ["pooler"]
    with pytest.raises(SourceError, match=r"pooler\.dense"):
        load(tmp_path / "no-pooler", "input_ids", outputs=["pooler_output"])


@pytest.mark.parametrize(
    ("architectures", "said"), [(None, "names no architecture"), (["OddModel"], "names the architecture OddModel")]
)
def test_a_class_that_transformers_does_not_have(tmp_path, bert, architectures, said):
    folder = tmp_path / "odd"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
    with pytest.raises(SourceError, match=f"{said}; .*source.options.task"):
        load(folder, "input_ids")
    assert load(folder, "input_ids", task="text-classification").module(IDS)["logits"].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("BertModel", ("last_hidden_state",)),
        ("GPT2LMHeadModel", ("logits",)),
        ("T5ForConditionalGeneration", ("logits",)),
        ("BertForQuestionAnswering", ("start_logits", "end_logits")),
        ("DetrForObjectDetection", ("logits", "pred_boxes")),
        ("CLIPModel", ("image_embeds", "text_embeds")),
        ("CLIPTextModelWithProjection", ("text_embeds",)),
    ],
)
def test_the_answer_of_a_class(transformers, name, fields):
    assert answer(getattr(transformers, name)) == fields


def test_it_exports_by_the_names_of_its_inputs(bert):
    module = load(bert, "input_ids", "attention_mask", task="text-classification").module
    feeds = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    program = torch.export.export(module, (), feeds)
    assert torch.allclose(program.module()(**feeds)["logits"], module(**feeds)["logits"], atol=1e-6)


def test_an_unknown_task_lists_the_known_ones(bert):
    with pytest.raises(RecipeError, match="'summarise'; expected one of feature-extraction, text-classification"):
        load(bert, "input_ids", task="summarise")


def test_an_unknown_input_lists_the_models(bert):
    with pytest.raises(RecipeError, match=r"no input \['pixel_values'\]; it takes: input_ids, attention_mask"):
        load(bert, "pixel_values")


def test_a_folder_without_weights(tmp_path, bert):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text((bert / "config.json").read_text())
    with pytest.raises(SourceError, match="transformers cannot load 'broken'"):
        load(folder, "input_ids")


def test_a_name_that_cannot_be_reached(tmp_path):
    with pytest.raises(SourceError, match="transformers cannot load 'no-one/no-model'"):
        load_original(Source(hf="no-one/no-model"), tmp_path, trust=False, seed=0, inputs=("input_ids",))


def test_the_digest_covers_the_folders_files(bert):
    source = Source(hf=bert.name)
    before = source_digest(source, bert.parent)
    config = bert / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert source_digest(source, bert.parent) != before
    config.write_text(text)
    assert source_digest(source, bert.parent) == before


def test_a_mixture_of_experts_is_prepared_for_export(transformers, tmp_path):
    config = transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1)
    folder = tmp_path / "mixtral"
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    original = load(folder, "input_ids", task="text-generation")
    assert any(step.startswith("experts implementation: batched_mm") for step in original.preparation)
    program = torch.export.export(original.module, (), {"input_ids": IDS})
    assert torch.allclose(program.module()(input_ids=IDS)["logits"], original.module(IDS)["logits"], atol=1e-5)


def test_a_decoder_returns_logits_and_no_cache(transformers, tmp_path):
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(folder)
    answer = load(folder, "input_ids").module(IDS)
    assert {name: tuple(field.shape) for name, field in answer.items()} == {"logits": (2, 7, 60)}
