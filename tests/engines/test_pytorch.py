import numpy as np
import pytest
import torch

from enginery.engines.base import DimRange, TensorSpec
from enginery.engines.pytorch import PyTorchSession
from enginery.errors import EngineError, InputError

INPUTS = (TensorSpec("x", "float32", ("n", 2)),)
Y = TensorSpec("y", "float32", ("n", 2))
Z = TensorSpec("z", "float32", ("n", 2))
DIMS = {"n": DimRange(1, 2, 4)}


class Module(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, x):
        return self.answer(self.dropout(x))


def run(answer, outputs=(Y,), n=2):
    session = PyTorchSession(Module(answer), INPUTS, outputs, DIMS)
    return session.run({"x": np.ones((n, 2), np.float32)})


def test_runs_in_evaluation_mode_without_gradients():
    def answer(x):
        assert torch.is_inference_mode_enabled()
        return x + 1

    np.testing.assert_array_equal(run(answer)["y"], np.full((2, 2), 2))


def test_several_outputs_are_named_by_position():
    result = run(lambda x: (x, x * 3), (Y, Z))
    assert result["y"][0, 0] == 1
    assert result["z"][0, 0] == 3


def test_a_mapping_is_read_by_name_and_may_hold_more():
    result = run(lambda x: {"z": x * 3, "y": x, "hidden": None}, (Y, Z))
    assert result.keys() == {"y", "z"}
    assert result["z"][0, 0] == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: (x, x), "returns 2 values; 1 tensors are expected"),
        (lambda x: {"other": x}, r"returns \['other'\]; the recipe's outputs \['y'\] are absent"),
        (lambda x: 3, "returns a int"),
        (lambda x: ["text"], "'y' of the original is a str"),
        (lambda x: x @ torch.ones(3, 3), r"failed on inputs of shape \{'x': \[2, 2\]\}"),
    ],
)
def test_wrong_answers_are_named(answer, message):
    with pytest.raises(EngineError, match=message):
        run(answer)


def test_feeds_are_checked():
    with pytest.raises(InputError, match="'n' of input 'x' is 5"):
        run(lambda x: x, n=5)


def test_says_what_is_in_use():
    description = PyTorchSession(Module(lambda x: x), INPUTS, (Y,), DIMS).describe()
    assert description["runtime"] == "pytorch"
    assert description["version"] == str(torch.__version__)
