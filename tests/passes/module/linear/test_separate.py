import numpy as np
import pytest
import torch
from nets import Cnn, Task, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.linear.separate import SeparateConvolutions
from enginery.passes.module.recover import Recover


def separable(multiplier=1, **options):
    """A convolution that is a depthwise and a pointwise one in disguise."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, 3, **options)
    deep, flat = torch.randn(6, multiplier, 9), torch.randn(10, 6, multiplier)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("imt,oim->oit", deep, flat).reshape(10, 6, 3, 3))
    return nn.Sequential(conv).eval()


def context_on(x):
    return Task("cnn").context(example={"input": x[:2]}, batches=lambda: iter([({"input": x}, None)]))


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "bias": False}, {"dilation": 2, "padding": 1}])
def test_a_separable_convolution_is_found_and_loses_nothing(aware, multiplier, options):
    x = np.random.default_rng(0).standard_normal((16, 6, 9, 8)).astype(np.float32)
    module = separable(multiplier, **options)
    expected = outputs_of(module, x)
    module, result = SeparateConvolutions(multiplier=multiplier, aware=aware).apply(module, context_on(x))
    assert result.changed == 1
    assert result.details["layers"]["0"]["kept"] == pytest.approx(1, abs=1e-5)
    deep, flat = module[0]
    assert (deep.groups, deep.out_channels, flat.kernel_size) == (6, 6 * multiplier, (1, 1))
    np.testing.assert_allclose(outputs_of(module, x), expected, rtol=1e-3, atol=1e-3)


def test_fitting_to_the_data_loses_less_than_the_weight_alone():
    noise = np.random.default_rng(0).standard_normal((32, 6, 8, 8))
    x = (noise.cumsum(2).cumsum(3) / 8).astype(np.float32)  # neighbouring pixels are alike, as in photos

    def conv():
        return seeded(lambda: nn.Sequential(nn.Conv2d(6, 16, 3, padding=1)))

    expected = outputs_of(conv(), x)
    lost = {}
    for aware in (True, False):
        module, _ = SeparateConvolutions(aware=aware).apply(conv(), context_on(x))
        lost[aware] = float(np.square(outputs_of(module, x) - expected).mean())
    assert lost[True] < 0.8 * lost[False]


def test_the_graph_is_smaller_and_training_brings_the_answers_back(tmp_path):
    task = Task("cnn")
    taught = Recover(epochs=8, lr=0.01).apply(seeded(Cnn), task.context())[0]
    before = export(taught, task.x[:2], tmp_path / "before.onnx")
    module, result = SeparateConvolutions().apply(taught, task.context())
    assert set(result.details["layers"]) == {"stem", "branch", "right"}
    after = export(module, task.x[:2], tmp_path / "after.onnx")
    assert initializer_elements(after) < initializer_elements(before)
    damaged = task.accuracy(module)
    module, _ = Recover(epochs=6, lr=0.01).apply(module, task.context())
    assert task.accuracy(module) > damaged + 0.2
    export(module, task.x[:2], tmp_path / "model.onnx")
    np.testing.assert_allclose(
        run_onnx(tmp_path / "model.onnx", task.x[:4]), outputs_of(module, task.x[:4]), rtol=1e-3, atol=1e-4
    )


def test_what_stays_whole_says_why():
    _, result = SeparateConvolutions(aware=False).apply(seeded(Cnn), Task("cnn").context(batches=None))
    reasons = {refusal.node: refusal.reason for refusal in result.refusals}
    assert reasons["depthwise"] == "it is a grouped convolution already"
    assert reasons["join"] == "its kernel has one element"
    x = np.ones((2, 3, 8, 8), np.float32)
    small = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3, padding="same")))
    _, result = SeparateConvolutions(multiplier=3).apply(small, context_on(x))
    assert result.refusals[0].reason == "the pair would have 99 elements, the weight has 54"
    words = seeded(lambda: nn.Sequential(nn.Conv2d(3, 32, 3, padding="same")))
    _, result = SeparateConvolutions().apply(words, context_on(x))
    assert "aware=false separates it" in result.refusals[0].reason


def test_without_data():
    with pytest.raises(PassError, match="was given no data"):
        SeparateConvolutions().apply(seeded(Cnn), Task("cnn").context(batches=None))
