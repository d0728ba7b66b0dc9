import numpy as np
import pytest
import torch
from nets import Cnn, Mlp, Task, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.passes.module.linear.merge import MergeLinear
from enginery.passes.module.low_rank.factorize import Factorize


def images(samples=3):
    return np.random.default_rng(0).standard_normal((samples, 3, 9, 7)).astype(np.float32)


def merged(module, x, name="input"):
    return MergeLinear().apply(module, Task("mlp").context(example={name: x}))


def kinds(module):
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


def test_linear_layers_with_dropout_between_them_become_one(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)

    def build():
        return nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 8), nn.Linear(8, 4))

    before = export(seeded(build), x, tmp_path / "before.onnx")
    expected = outputs_of(seeded(build), x)
    module, result = merged(seeded(build), x)
    assert result.changed == 2
    assert result.details["merged"] == {"0": "2", "2": "3"}
    assert result.details["proved"] < 1e-5
    assert [name for name in kinds(module) if name == "Linear"] == ["Linear"]
    after = export(module, x, tmp_path / "after.onnx")
    assert initializer_elements(after) == 16 * 4 + 4 < initializer_elements(before)
    np.testing.assert_allclose(run_onnx(tmp_path / "after.onnx", x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 4, 1, stride=2)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"), nn.Conv2d(16, 4, 1, bias=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 4, 3, stride=2, padding=1, dilation=2)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 3)),
    ],
)
def test_convolutions(build):
    module, x = seeded(build), images()
    expected = outputs_of(module, x)
    module, result = merged(module, x)
    assert result.changed == 1
    assert kinds(module) == (["Identity", "Conv2d"])
    np.testing.assert_allclose(outputs_of(module, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)), "the second pads with zeros"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), "neither is a 1x1 convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 8, 1)), "a grouped convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 9, 1)), "the product has 27 elements, the two have 24"),
    ],
)
def test_what_cannot_be_one_layer_stays_two(build, reason):
    module, x = seeded(build), images()
    expected = outputs_of(module, x)
    module, result = merged(module, x)
    assert result.changed == 0
    assert reason in result.refusals[0].reason
    np.testing.assert_array_equal(outputs_of(module, x), expected)


class Branching(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.how = nn.Linear(16, 16), nn.Linear(16, 4), how

    def forward(self, x):
        hidden = self.first(x)
        out = self.second(hidden)
        return (out, hidden) if self.how == "output" else out + hidden[:, :4]


@pytest.mark.parametrize("how", ["output", "sum"])
def test_an_output_that_is_read_twice_keeps_its_layer(how):
    x = np.ones((2, 16), np.float32)
    _, result = merged(seeded(lambda: Branching(how)), x, "x")
    assert result.changed == 0
    assert "something else reads its output too" in result.refusals[0].reason


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.second(self.first(torch.relu(self.second(x))))


def test_a_layer_that_is_called_twice_is_left_alone():
    _, result = merged(seeded(Twice), np.ones((2, 16), np.float32), "x")
    assert result.changed == 0


def test_nonlinear_models_have_nothing_to_merge_and_low_rank_stays_low():
    task = Task("cnn")
    _, result = MergeLinear().apply(seeded(Cnn), task.context())
    assert (result.changed, "proved" in result.details) == (0, False)
    task = Task("mlp")
    thin, _ = Factorize(rank=4, aware=False, layers="second").apply(seeded(Mlp), task.context())
    _, result = MergeLinear().apply(thin, task.context())
    assert "the product has 1,024 elements, the two have 256" in result.refusals[0].reason
    wide, _ = Factorize(rank=4, aware=False, layers="second").apply(seeded(Mlp), task.context())
    assert MergeLinear().apply(wide, task.context())[1].changed == 0
