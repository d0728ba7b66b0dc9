import pytest
import torch

from enginery.errors import RecipeError, SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source import load_original, source_digest
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


def test_the_model_takes_the_recipes_inputs_and_returns_a_tensor(transformers, bert):
    original = load(bert, "input_ids", "attention_mask", task="text-classification")
    mask = torch.ones_like(IDS)
    reference = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    with torch.inference_mode():
        wanted = reference(input_ids=IDS, attention_mask=mask).logits
        assert torch.equal(original.module(IDS, mask), wanted)
        assert torch.equal(original.module(attention_mask=mask, input_ids=IDS), wanted)
    assert original.provenance["class"] == "BertForSequenceClassification"
    assert str(bert.parent) not in repr(original.provenance)


def test_outputs_are_chosen_by_name(bert):
    original = load(bert, "input_ids", outputs=["pooler_output", "last_hidden_state"])
    pooled, hidden = original.module(IDS)
    assert pooled.shape == (2, 16)
    assert hidden.shape == (2, 7, 16)


def test_it_exports_by_the_names_of_its_inputs(bert):
    module = load(bert, "input_ids", "attention_mask", task="text-classification").module
    feeds = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    program = torch.export.export(module, (), feeds)
    assert torch.allclose(program.module()(**feeds), module(**feeds), atol=1e-6)


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
    with pytest.raises(SourceError, match="transformers cannot load 'broken' as AutoModel"):
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
    assert torch.allclose(program.module()(input_ids=IDS), original.module(IDS), atol=1e-5)


def test_a_decoder_returns_logits_and_no_cache(transformers, tmp_path):
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(folder)
    logits = load(folder, "input_ids", task="text-generation").module(IDS)
    assert logits.shape == (2, 7, 60)
