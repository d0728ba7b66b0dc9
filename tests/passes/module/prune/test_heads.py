import numpy as np
import pytest
import torch
from nets import Mlp, Task, Transformer, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.prune.heads import PruneHeads
from enginery.passes.module.prune.weights import PruneWeights


def pruned(module=None, context=None, **options):
    return PruneHeads(**options).apply(module or seeded(Transformer), context or Task("transformer").context())


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor", "random"])
def test_heads_leave_and_the_graph_is_smaller(tmp_path, criterion):
    task = Task("transformer")
    module, result = pruned(criterion=criterion)
    assert result.changed == 8
    assert result.details["heads"] == {f"blocks.{i}.attention": [4, 2] for i in range(4)}
    assert module.blocks[0].attention.num_heads == 2
    before = export(seeded(Transformer), task.x[:2], tmp_path / "before.onnx")
    after = export(module, task.x[:2], tmp_path / "after.onnx")
    assert initializer_elements(after) < initializer_elements(before) - 4 * 4 * 100
    np.testing.assert_allclose(
        run_onnx(tmp_path / "after.onnx", task.x[:5]), outputs_of(module, task.x[:5]), rtol=1e-4, atol=1e-5
    )


def test_a_silent_head_goes_without_any_change():
    task, module = Task("transformer"), seeded(Transformer)
    with torch.no_grad():
        for block in module.blocks:
            block.attention.out_proj.weight[:, 4:8] = 0
    expected = outputs_of(module, task.x)
    module, _ = pruned(module, ratio=0.25)
    assert module.blocks[0].attention.q_proj.out_features == 12
    np.testing.assert_allclose(outputs_of(module, task.x), expected, rtol=1e-5, atol=1e-6)


def test_taylor_spares_the_head_that_the_loss_needs():
    """Heads with large weights that nothing downstream reads matter to their norm alone."""
    task, module = Task("transformer"), seeded(lambda: Transformer(layers=1))
    with torch.no_grad():
        attention = module.blocks[0].attention
        attention.v_proj.weight[4:8] *= 10
        attention.out_proj.weight[:, 4:8] = 0
        attention.v_proj.weight[8:12] *= 0.3
    before = outputs_of(module, task.x)
    module, _ = pruned(module, task.context(), ratio=0.25, criterion="taylor")
    np.testing.assert_allclose(outputs_of(module, task.x), before, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in module.parameters())
    with pytest.raises(PassError, match="taylor reads gradients"):
        pruned(context=task.context(batches=None), criterion="taylor")


def test_a_head_always_stays():
    module, _ = pruned(ratio=0.99)
    assert module.blocks[0].attention.num_heads == 1


def test_the_built_in_sentence_encoder():
    from enginery.models.minilm.model import SentenceEncoder

    module = seeded(SentenceEncoder)
    ids = np.random.default_rng(0).integers(1, 1000, (2, 7))
    example = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with torch.no_grad():
        for layer in module.encoder["layer"]:
            layer.attention["output"].dense.weight[:, 32:96] = 0  # heads 1 and 2 say nothing
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    expected = module(**tensors)
    module, result = pruned(module, Task("mlp").context(example=example), ratio=1 / 6)
    assert (result.changed, result.refusals) == (12, ())
    assert result.details["heads"]["encoder.layer.0.attention.self"] == [12, 10]
    assert module.encoder["layer"][0].attention["self"].query.out_features == 320
    torch.testing.assert_close(module(**tensors), expected, rtol=1e-4, atol=1e-5)


def test_a_hugging_face_encoder():
    from enginery.pipeline.source.torchvision import prepare_torchvision

    prepare_torchvision()
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50
    )
    torch.manual_seed(0)
    module = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids = np.arange(12).reshape(2, 6)
    module, result = pruned(module, Task("mlp").context(example={"input_ids": ids}), ratio=0.5)
    assert result.changed == 4
    assert result.refusals == ()
    with torch.no_grad():
        assert module(torch.from_numpy(ids)).last_hidden_state.shape == (2, 6, 32)


def test_refusals_name_the_attention():
    _, result = pruned(ratio=0.05)
    assert result.refusals[0].reason == "ratio=0.05 of 4 heads is none"

    module = seeded(Transformer)
    module.blocks[0].attention.k_proj = nn.Linear(16, 8)
    module.blocks[1].attention.out_proj = nn.Linear(12, 16)
    module.blocks[2].attention.num_heads = 3
    del module.blocks[3].attention.num_heads
    _, result = pruned(module)
    assert [refusal.reason.partition(" among")[0] for refusal in result.refusals] == [
        "it has fewer key and value heads than query heads",
        "no output projection with 16 inputs was found",
        "num_heads=3 does not divide the query's 16 channels",
        "it keeps no head count in an attribute (num_attention_heads, num_heads, n_heads, heads)",
    ]
    masked, _ = PruneWeights(ratio=0.5).apply(seeded(Transformer), Task("transformer").context())
    _, result = pruned(masked)
    assert result.changed == 0
    assert result.refusals[0].reason == "one of its weights is masked or shared by an earlier pass"
    _, result = pruned(nn.ModuleDict({"a": nn.MultiheadAttention(16, 4)}))
    assert str(result.refusals[0]).startswith("a: torch.nn.MultiheadAttention ties")


def test_a_module_without_attention_is_an_error():
    with pytest.raises(PassError, match="no attention was recognized"):
        pruned(seeded(Mlp))
