"""Dimensions behind computed shapes: what inference loses and a sweep gives back."""

import pytest
from graphs import parse

from enginery.passes.graph.shapes import dims_of

SIZES = """n0 = Shape<start: int = 0, end: int = 1>(x) s0 = Shape<start: int = 1, end: int = 2>(x)
    s = Squeeze(s0)"""
CONSTANTS = """
    <int64[1] rest = {-1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] first = {0}, int64[1] second = {1},
    int64 zero = {0}, int64 one = {1}, float[512, 6] table, int64[1, 512] ids>"""


def shape(body, name="y", inputs="float[N, S, 6] x, float[6, 5] w"):
    graph = parse(f"g ({inputs}) => (float[A] out) {CONSTANTS} {{ {SIZES} {body} out = Flatten({name}) }}")
    return dims_of(graph.tensors()[name])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Concat<axis: int = 0>(n0, s0, rest, three) y = Reshape(x, t)", ("N", "S", 2, 3)),
        ("t = Concat<axis: int = 0>(n0, rest, two, three) y = Reshape(x, t)", ("N", "S", 2, 3)),
        ("t = Concat<axis: int = 0>(rest, s0) y = Reshape(x, t)", (None, "S")),
        (
            "t = Concat<axis: int = 0>(n0, s0, two, three) r = Reshape(x, t) y = Transpose<perm: ints = [1, 0, 2, 3]>(r)",  # noqa: E501
            ("S", "N", 2, 3),
        ),
        ("t = Concat<axis: int = 0>(n0, s0, two, three) r = Reshape(x, t) e = Exp(r) y = Relu(r)", ("N", "S", 2, 3)),
        ("y = Range(zero, s, one)", ("S",)),
        ("t = Concat<axis: int = 0>(n0, s0) y = Expand(first, t)", ("N", "S")),
        ("y = Slice(ids, first, s0, second, second)", (1, "Min(512, S)")),
        ("p = Slice(ids, first, s0, second, second) e = Gather(table, p) y = Add(x, e)", ("N", "S", 6)),
        ("p = Slice(ids, first, s0, second, second) y = GatherElements<axis: int = 1>(ids, p)", (1, "Min(512, S)")),
        ("t = Concat<axis: int = 0>(n0, s0, rest) r = Reshape(x, t) y = MatMul(r, w)", ("N", "S", 5)),
        ("t = Concat<axis: int = 0>(n0, s0, rest) r = Reshape(x, t) y = Unsqueeze(r, second)", ("N", 1, "S", 6)),
    ],
)
def test_dimensions_follow_computed_shapes(body, expected):
    assert shape(body) == expected


def test_a_size_that_is_asked_for_twice_is_restored_once():
    constants = "<int64[3] to = {-1, 2, 2}>"
    graph = parse(f"g (float[N, 2, 8] x) => (float[A] y) {constants} {{ r = Reshape(x, to) y = Flatten(r) }}")
    assert dims_of(graph.tensors()["r"]) == (None, 2, 2)


def test_every_part_of_a_split():
    body = """t = Concat<axis: int = 0>(n0, s0, rest) r = Reshape(x, t)
        y, z = Split<axis: int = -1, num_outputs: int = 2>(r) yz = Add(y, z)"""
    assert shape(body, "yz") == ("N", "S", 3)


def test_sizes_that_may_differ_stay_unknown():
    inputs = "float[N, S, 6] x, float[6, 5] w, float[M, 6] z"
    assert shape("y = Add(x, z)", inputs=inputs) == ("N", None, 6)


BODIES = {
    "If": """y = If(c) <
        then_branch = t () => (float[P, Q, R, T] a) { r = Reshape(x, to) m = MatMul(r, w) a = Relu(m) },
        else_branch = e () => (float[P, Q, R, T] d) { d = Reshape(x, to) }>""",
    "Loop": """y = Loop(trips, c, z) <body = b (int64 i, bool go, float[P, Q, R, T] h) => (bool on,
        float[P, Q, R, T] s) { on = Identity(go) r = Reshape(x, to) m = MatMul(r, w)
        s = Add(h, m) }>""",
}


@pytest.mark.parametrize("op", BODIES)
def test_dimensions_in_bodies(op):
    inputs = "float[N, S, 6] x, float[3, 3] w, bool c, int64 trips, float[N, S, 2, 3] z"
    text = f"""g ({inputs}) => (float[A, B, C, D] y) <int64[2] pair = {{2, 3}}>
    {{ n0 = Shape<end: int = 2>(x) to = Concat<axis: int = 0>(n0, pair) {BODIES[op]} }}"""
    graph = parse(text)
    (node,) = (node for node in graph.nodes if node.op == op)
    (body,) = (inner for name, inner in node.attrs.items() if name in ("then_branch", "body"))
    assert dims_of(body.tensors()["m"]) == ("N", "S", 2, 3)
