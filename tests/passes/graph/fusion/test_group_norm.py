import numpy as np
import pytest
from graphs import apply, attributes

from enginery.passes.graph.fusion.group_norm import FuseGroupNorm

HEAD = """g (float[N, 4, H, 3] x) => (float[N, 4, H, 3] y{more})
    <int64[3] rows = {{0, 2, -1}}, float[2] unit = {{1, 1}}, float[2] zero = {{0, 0}}, float[2] other = {{1, 2}},
     float[4, 1, 1] w = {{1, 2, 3, 4}}, float[1, 4, 1, 1] wide = {{1, 2, 3, 4}}, float[4, 1, 1] b = {{0, 1, 0, 2}},
     float[3] last = {{1, 2, 3}}>"""
BODY = """r = Reshape(x, rows) n = InstanceNormalization<epsilon: float = 0.001>(r, unit, zero) s = Shape(x)
    f = Reshape(n, s) m = Mul(f, w) y = Add(m, b)"""


def text(body=BODY, more=""):
    return f"{HEAD.format(more=more)} {{ {body} }}"


@pytest.mark.parametrize("scale", ["w", "wide"])
def test_one_node_for_the_groups(scale, tmp_path):
    done = apply(FuseGroupNorm(), text(BODY.replace("w)", f"{scale})")), tmp_path)
    assert done.ops == ["GroupNormalization"]
    found = attributes(done.graph, "GroupNormalization")
    assert (found["num_groups"], found["epsilon"]) == (2, pytest.approx(0.001))
    assert done.graph.opset == 21


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"body": BODY.replace("w)", "last)")}, "the scale 'last' has shape [3]"),
        ({"body": BODY.replace("unit", "other")}, "a scale or bias of their own"),
        ({"more": ", float[N, 2, A] n"}, "'n' is a graph output"),
    ],
)
def test_what_the_op_cannot_express_is_left(options, reason, tmp_path):
    done = apply(FuseGroupNorm(), text(**options), tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


def test_channels_that_are_not_fixed_are_left(tmp_path):
    given = text().replace("[N, 4, H, 3]", "[N, C, H, 3]").replace("float[4, 1, 1]", "float[1, 1, 1]")
    given = given.replace("{1, 2, 3, 4}, float[1, 4", "{1}, float[1, 4").replace("b = {0, 1, 0, 2}", "b = {2}")
    feeds = [{"x": np.arange(24, dtype=np.float32).reshape(1, 4, 2, 3)}]
    assert "fixed channels is needed" in apply(FuseGroupNorm(), given, tmp_path, feeds=feeds).reasons
