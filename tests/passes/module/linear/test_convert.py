import numpy as np
import pytest
import torch
from nets import Cnn, Task, Transformer, export, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.linear.convert import ConvertPointwise


@pytest.mark.parametrize(("kind", "build", "count"), [("cnn", Cnn, 2), ("transformer", Transformer, 25)])
def test_linear_layers_become_convolutions(tmp_path, kind, build, count):
    task, module = Task(kind), seeded(build)
    expected = outputs_of(module, task.x[:4])
    module, result = ConvertPointwise(to="conv").apply(module, task.context())
    assert result.changed == count
    assert not any(isinstance(layer, nn.Linear) for layer in module.modules())
    np.testing.assert_allclose(outputs_of(module, task.x[:4]), expected, rtol=1e-4, atol=1e-5)
    export(module, task.x[:2], tmp_path / "model.onnx")
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", task.x[:4]), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_become_linear_layers_and_back(tmp_path):
    task, module = Task("cnn"), seeded(Cnn)
    expected = outputs_of(module, task.x[:4])
    module, result = ConvertPointwise(to="linear").apply(module, task.context())
    assert result.details["converted"] == ["left", "join"]
    reasons = {refusal.node: refusal.reason for refusal in result.refusals}
    assert reasons["stem"] == "its kernel is 3x3, not 1x1"
    export(module, task.x[:2], tmp_path / "model.onnx")
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", task.x[:4]), expected, rtol=1e-4, atol=1e-5)
    module, result = ConvertPointwise(to="conv").apply(module, task.context())
    assert result.changed == 4
    np.testing.assert_allclose(outputs_of(module, task.x[:4]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 4, 1, stride=2), "its stride is 2x2"),
        (nn.Conv2d(3, 4, 1, padding=1), "it pads by (1, 1)"),
        (nn.Conv2d(3, 6, 1, groups=3), "it has 3 groups"),
    ],
)
def test_convolutions_that_do_more_stay(layer, reason):
    x = np.ones((1, 3, 4, 4), np.float32)
    _, result = ConvertPointwise(to="linear").apply(nn.Sequential(layer), Task("cnn").context(example={"input": x}))
    assert [refusal.reason for refusal in result.refusals] == [reason]


def test_a_module_that_reads_the_weight_itself_is_an_error():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.last(x @ self.first.weight)

    context = Task("mlp").context()
    with pytest.raises(PassError, match="may read a layer's weight instead of calling the layer"):
        ConvertPointwise(to="conv").apply(seeded(Reads), context)
    module, result = ConvertPointwise(to="conv", layers="last").apply(seeded(Reads), context)
    assert result.changed == 1
    assert torch.is_tensor(module.first.weight)
