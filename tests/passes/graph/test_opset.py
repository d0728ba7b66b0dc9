import numpy as np
import pytest
from graphs import parse

from enginery.passes.graph.opset import raise_opset


def test_operators_that_only_gained_types_are_left_as_they_are():
    graph = parse("g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) y = Softmax(a) }", opset=17)
    assert raise_opset(graph, 23) is None
    assert graph.opset == 23
    assert [entry.version for entry in graph.import_domains if entry.domain == ""] == [23]


def test_axes_become_inputs():
    text = "g (float[N, 4] x) => (float[N, 1] y) { y = ReduceMean<axes: ints = [1]>(x) }"
    graph = parse(text, opset=17)
    assert raise_opset(graph, 20) is None
    assert "axes" not in graph.nodes[0].attrs
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values, [1])


def test_a_split_says_how_many():
    graph = parse("g (float[N, 4] x) => (float[N, 2] y, float[N, 2] z) { y, z = Split<axis: int = 1>(x) }", opset=17)
    assert raise_opset(graph, 18) is None
    assert graph.nodes[0].attrs["num_outputs"] == 2


@pytest.mark.parametrize(
    ("text", "opset", "reason"),
    [
        (
            """g (float[N, 4, 2] x) => (float[N, 4, 2] y) <float[2] s = {1, 1}, float[2] b = {0, 0}>
            { y = GroupNormalization<num_groups: int = 2>(x, s, b) }""",
            18,
            "scale and bias went from groups to channels",
        ),
    ],
)
def test_a_model_whose_operators_changed_is_left(text, opset, reason):
    graph = parse(text, opset=opset)
    assert reason in str(raise_opset(graph, 23))
    assert graph.opset == opset


def test_a_model_that_is_new_enough_is_left():
    graph = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }", opset=23, ir_version=11)
    assert raise_opset(graph, 20) is None
    assert graph.opset == 23
