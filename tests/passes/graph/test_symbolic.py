"""What towers of shape computations come to."""

import numpy as np
import pytest
from graphs import parse_model

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph.ir import import_model
from enginery.passes.graph.shapes import infer_shapes
from enginery.passes.graph.symbolic import ShapeValues

CONSTANTS = """<int64[4] v = {5, 6, 7, 8}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
    int64[1] minus = {-1}, int64[1] least = {-9223372036854775807}, int64[1] most = {9223372036854775807},
    int64[2] ends = {-1, 0}, int64 three = {3}, bool[4] c = {1, 0, 0, 1}, int64[4] u = {1, 2, 3, 4}>"""


def value(body, tmp_path, output="int64[K] y"):
    """What `y` comes to, and what ONNX Runtime makes of it for x of [2, 3, 4]."""
    import onnx

    model = parse_model(f"g (float[N, 3, 4] x) => ({output}) {CONSTANTS} {{ {body} }}")
    onnx.save(model, tmp_path / "model.onnx")
    graph = import_model(model, tmp_path)
    infer_shapes(graph)
    ran = open_model(tmp_path / "model.onnx")({"x": np.zeros((2, 3, 4), np.float32)})["y"]
    return ShapeValues().vector(graph.outputs[0]), np.atleast_1d(ran).tolist()


@pytest.mark.parametrize(
    "body",
    [
        "y = Slice(v, zero, two, zero)",
        "y = Slice(v, minus, least, zero, minus)",
        "y = Slice(v, two, least, zero, minus)",
        "y = Slice(v, minus, zero, zero, minus)",
        "y = Slice(v, one, most, zero, two)",
        "y = Slice(v, most, least, zero, minus)",
        "y = Slice(v, two, minus, zero, minus)",
        "y = Gather(v, ends)",
        "y = Concat<axis: int = 0>(two, v)",
        "y = Add(v, two)",
        "y = Sub(u, v)",
        "y = Div(v, two)",
        "y = Div(v, minus)",
        "y = Where(c, v, u)",
        "s = Shape<start: int = -2>(x) y = Mul(s, two)",
        "s = Shape<start: int = 1, end: int = -1>(x) y = Identity(s)",
    ],
)
def test_numbers_come_to_what_the_runtime_says(body, tmp_path):
    found, ran = value(body, tmp_path)
    assert found is not None
    assert list(found) == ran


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Shape(x)", ("N", 3, 4)),
        ("s = Shape(x) y = Slice(s, minus, least, zero, minus)", (4, 3, "N")),
        ("s = Shape<end: int = 1>(x) y = Mul(s, one)", ("N",)),
        ("s = Shape<end: int = 1>(x) y = Add(zero, s)", ("N",)),
        ("s = Shape<end: int = 1>(x) y = Sub(zero, s)", None),
        ("s = Shape<end: int = 1>(x) y = Div(s, one)", ("N",)),
        ("s = Shape<end: int = 1>(x) y = Div(one, s)", None),
        ("s = Shape<end: int = 1>(x) y = Mul(s, two)", None),
    ],
)
def test_sizes_keep_their_names(body, expected, tmp_path):
    assert value(body, tmp_path)[0] == expected


@pytest.mark.parametrize("body", ["y = Add(zero, s)", "e = Equal(s, minus) y = Where(e, one, s)", "y = Mul(s, s)"])
def test_a_vector_of_nothing_stays_one(body, tmp_path):
    """The shape of a scalar: a single number beside it is repeated no time at all."""
    found, ran = value(f"s = Shape<end: int = 0>(x) {body}", tmp_path)
    assert found in ((), None)
    assert ran == []


def test_no_size_is_negative(tmp_path):
    body = "s = Shape<end: int = 1>(x) e = Equal(s, minus) y = Where(e, one, s)"
    assert value(body, tmp_path) == (("N",), [2])
    body = "s = Shape<end: int = 1>(x) e = Equal(s, two) y = Where(e, one, s)"
    assert value(body, tmp_path) == (None, [1])
