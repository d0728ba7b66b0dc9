import numpy as np
import pytest
import torch

from enginery.errors import SourceError
from enginery.pipeline.source.opened import discover_outputs


class Returning(torch.nn.Module):
    """A model that returns what it is made with, computed from `x`."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


FEEDS = {"x": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ("output",)),
        (lambda x: (x, x + 1), ("output_0", "output_1")),
        (lambda x: {"logits": x, "loss": None}, ("logits",)),
    ],
)
def test_outputs_are_named_by_what_is_returned(make, names):
    assert discover_outputs(Returning(make), FEEDS) == names


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("text", "returns a str; expected a tensor"),
        (None, "returns a NoneType; expected"),
        ((torch.ones(1), (torch.ones(1),)), "returns a tuple with a tuple at 1; expected"),
    ],
)
def test_a_result_without_tensors_is_refused(result, words):
    with pytest.raises(SourceError, match=words):
        discover_outputs(Returning(lambda _: result), FEEDS)


def test_a_model_that_cannot_take_its_inputs_says_which():
    with pytest.raises(SourceError, match=r"\{'x': \[2, 3\]\}: shape '\[4\]' is invalid"):
        discover_outputs(Returning(lambda x: x.reshape(4)), FEEDS)
