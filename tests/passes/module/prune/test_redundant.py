import numpy as np
import pytest
import torch
from nets import Cnn, Mlp, Task, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.prune.redundant import RemoveRedundantChannels
from enginery.passes.module.prune.weights import PruneWeights


def cleaned(module, context=None, **options):
    return RemoveRedundantChannels(**options).apply(module, context or Task("mlp").context())


def test_dead_and_equal_neurons_leave_and_the_answers_stay(tmp_path):
    task, module = Task("mlp"), seeded(Mlp)
    with torch.no_grad():
        module.first.weight[3], module.first.bias[3] = 0, -0.5  # silent behind its ReLU, whatever comes in
        module.second.weight[:, 7] = 0  # nobody reads it
        module.first.weight[9], module.first.bias[9] = module.first.weight[8], module.first.bias[8]
    before = export(module, task.x[:2], tmp_path / "before.onnx")
    expected = outputs_of(module, task.x)
    module, result = cleaned(module, task.context())
    assert result.details["channels"] == {"first": {"channels": 32, "dead": 2, "equal": 1}}
    assert result.changed == 3
    assert result.details["proved"] < 1e-5
    assert module.first.out_features == module.second.in_features == 29
    np.testing.assert_allclose(outputs_of(module, task.x), expected, rtol=1e-4, atol=1e-6)
    after = export(module, task.x[:2], tmp_path / "after.onnx")
    assert initializer_elements(before) - initializer_elements(after) == 3 * (16 + 1 + 32)
    np.testing.assert_allclose(run_onnx(tmp_path / "after.onnx", task.x[:5]), expected[:5], rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
    """Two convolutions, normalized and flattened, so that one channel is many features."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second, self.last = nn.Conv2d(8, 6, 3), nn.Linear(6 * 36, 4)

    def forward(self, x):
        x = torch.relu(self.deep(torch.relu(self.norm(self.first(x)))))
        return self.last(torch.relu(self.second(x)).flatten(1))


def test_normalization_depthwise_layers_and_flattening():
    task, module = Task("cnn"), seeded(Plain)
    with torch.no_grad():
        module.norm.weight[2], module.norm.bias[2], module.deep.bias[2] = 0, -1, -0.1  # as slimming leaves them
        for tensor in (module.first.weight, module.norm.weight, module.norm.bias, module.deep.weight, module.deep.bias):
            tensor[5] = tensor[4]
        module.norm.weight[6] = 0.7  # alike but for this
        module.second.weight[1], module.second.bias[1] = module.second.weight[0], module.second.bias[0]
    expected = outputs_of(module, task.x)
    module, result = cleaned(module, task.context())
    assert result.details["channels"] == {
        "deep": {"channels": 8, "dead": 1, "equal": 1},  # with first and norm
        "second": {"channels": 6, "dead": 0, "equal": 1},
    }
    assert module.last.in_features == 5 * 36
    np.testing.assert_allclose(outputs_of(module, task.x), expected, rtol=1e-4, atol=1e-5)


def test_a_constant_that_is_not_zero_stays():
    module = seeded(Mlp)
    with torch.no_grad():
        module.first.weight[3], module.first.bias[3] = 0, 0.5
    assert cleaned(module)[1].changed == 0


def test_channels_that_are_silent_on_the_data_leave_only_when_asked():
    task = Task("mlp")

    def build():
        module = seeded(Mlp)
        with torch.no_grad():
            module.first.bias[3] = -100
        return module

    assert cleaned(build(), task.context())[1].changed == 0
    module, result = cleaned(build(), task.context(), observe=True)
    assert result.details["channels"]["first"]["dead"] == 1
    np.testing.assert_allclose(outputs_of(module, task.x), outputs_of(build(), task.x), rtol=1e-4, atol=1e-6)
    with pytest.raises(PassError, match="was given no data"):
        cleaned(build(), task.context(batches=None), observe=True)


def test_one_channel_stays_and_a_second_run_changes_nothing():
    task, module = Task("mlp"), seeded(Mlp)
    with torch.no_grad():
        module.second.weight[:] = 0
        module.second.bias[:] = -1
    module, result = cleaned(module, task.context())
    assert module.second.out_features == 1
    assert result.changed > 0
    again, result = cleaned(module, task.context())
    assert (again.second.out_features, result.details["proved"]) == (1, 0.0)


def test_residual_and_concatenated_channels_of_a_trained_kind_of_net_are_distinct():
    _, result = cleaned(seeded(Cnn), Task("cnn").context())
    assert result.changed == 0


def test_what_cannot_be_cut_is_kept_with_a_reason():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x):
            return self.last(self.norm(self.first(x)))

    module = seeded(Normed)
    with torch.no_grad():
        module.last.weight[:, 2] = 0
    _, result = cleaned(module)
    assert result.changed == 0
    assert {str(r) for r in result.refusals} == {
        "first: norm normalizes over its channels",
        "last: its channels are an output of the model",
    }
    masked = PruneWeights(ratio=0.5).apply(seeded(Mlp), Task("mlp").context())[0]
    with pytest.raises(PassError, match="carries a mask"):
        cleaned(masked)
