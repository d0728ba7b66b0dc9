"""The second opinion: it catches what the runtime does not show, and says when it was not asked."""

import numpy as np
import onnx
import pytest
from graphs import parse_model

from enginery.errors import PassError
from enginery.passes.reference import second_opinion

SIGNATURE = "g (float[N, 2] x) => (float[N, 2] y)"
FEEDS = {"x": np.array([[1.0, 2.0]], np.float32)}
EXPECTED = {"y": np.exp(FEEDS["x"])}
EXP = f"{SIGNATURE} {{ y = Exp(x) }}"


@pytest.fixture
def opinion(tmp_path):
    def ask(after, before=EXP):
        paths = [tmp_path / "before.onnx", tmp_path / "after.onnx"]
        for path, text in zip(paths, (before, after), strict=True):
            onnx.save(parse_model(text), path)
        return second_opinion(*paths, FEEDS, EXPECTED, 1e-5)

    return ask


def test_it_agrees(opinion):
    assert opinion(f"{SIGNATURE} {{ a = Identity(x) y = Exp(a) }}") == "agrees"


def test_it_finds_what_the_runtime_does_not_show(opinion):
    with pytest.raises(PassError, match="reference evaluator finds output 'y' changed by"):
        opinion(f"{SIGNATURE} <float k = {{1.01}}> {{ a = Mul(x, k) y = Exp(a) }}")


def test_it_is_not_believed_where_it_differs_from_the_runtime(opinion):
    wrong = f"{SIGNATURE} {{ y = Relu(x) }}"
    assert opinion(wrong, before=wrong) == "not believed: it differs from the runtime on 'y' before the first pass"


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (f"{SIGNATURE} {{ y = com.microsoft.QuickGelu(x) }}", "the domain 'com.microsoft'"),
        (f"{SIGNATURE} <float[1, 1, 1] w = {{1}}> {{ y = Conv(x, w) }}", "Conv is slow"),
        (f"{SIGNATURE} <int64[1] n = {{7}}> {{ y = Reshape(x, n) }}", "it raised ValueError"),
    ],
)
def test_it_says_why_it_was_not_asked(opinion, after, reason):
    assert reason in opinion(after)
