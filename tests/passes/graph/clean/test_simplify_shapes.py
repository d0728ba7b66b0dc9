import numpy as np
import pytest
from graphs import apply

from enginery.passes.graph.clean.simplify_shapes import SimplifyShapes


def target(done):
    (node,) = (node for node in done.graph.nodes if node.op == "Reshape")
    return node.inputs[1].values.tolist()


HEAD = "g (float[N, S, 6] x) => (float[A, B, C, D] y) <int64[1] rest = {-1}, int64[1] three = {3}, int64[1] two = {2}>"


def test_own_dimensions_are_copied_and_one_is_left_open(tmp_path):
    text = (
        HEAD
        + """{ n = Shape<start: int = 0, end: int = 1>(x) s = Shape<start: int = 1, end: int = 2>(x)
      t = Concat<axis: int = 0>(n, s, three, rest) y = Reshape<allowzero: int = 1>(x, t) }"""
    )
    done = apply(SimplifyShapes(), text, tmp_path)
    assert done.ops == ["Reshape"]
    assert target(done) == [0, 0, 3, -1]


def test_the_way_torchscript_writes_it(tmp_path):
    text = """g (float[N, S, 6] x) => (float[A, B, C, D] y) <int64 i0 = {0}, int64 i1 = {1}, int64[1] ax = {0},
      int64[1] three = {3}, int64[1] two = {2}>
    { s = Shape(x) a = Gather(s, i0) b = Gather(s, i1) c = Unsqueeze(a, ax) d = Unsqueeze(b, ax)
      t = Concat<axis: int = 0>(c, d, three, two) y = Reshape(x, t) }"""
    assert target(apply(SimplifyShapes(), text, tmp_path)) == [0, 0, 3, 2]


def test_a_moved_dynamic_dimension_is_left_open(tmp_path):
    text = (
        HEAD
        + """{ n = Shape<start: int = 0, end: int = 1>(x) s = Shape<start: int = 1, end: int = 2>(x)
      t = Concat<axis: int = 0>(n, three, two, s) y = Reshape(x, t) }"""
    )
    assert target(apply(SimplifyShapes(), text, tmp_path)) == [0, 3, 2, -1]


def test_two_moved_dynamic_dimensions_are_kept(tmp_path):
    text = (
        HEAD
        + """{ n = Shape<start: int = 0, end: int = 1>(x) s = Shape<start: int = 1, end: int = 2>(x)
      t = Concat<axis: int = 0>(three, two, s, n) y = Reshape(x, t) }"""
    )
    done = apply(SimplifyShapes(), text, tmp_path)
    assert "two dynamic dimensions" in done.reasons
    assert done.result.changed == 0


def test_a_product_of_dynamic_dimensions_is_kept(tmp_path):
    text = """g (float[N, S, 6] x) => (float[A, B] y) <int64[1] six = {6}>
    { n = Shape<start: int = 0, end: int = 1>(x) s = Shape<start: int = 1, end: int = 2>(x) p = Mul(n, s)
      t = Concat<axis: int = 0>(p, six) y = Reshape(x, t) }"""
    assert apply(SimplifyShapes(), text, tmp_path).result.changed == 0


def test_static_dimensions_become_a_constant(tmp_path):
    text = """g (float[N, 4, 6] x) => (float[N, 4, 6] y) <int64 i = {-1}, int64 m = {2}>
    { s = Shape(x) l = Gather(s, i) h = Div(l, m) f = Cast<to: int = 1>(h) y = Mul(x, f) }"""
    assert apply(SimplifyShapes(), text, tmp_path).ops == ["Cast", "Mul"]


def test_expanding_to_the_own_shape_goes(tmp_path):
    text = """g (float[N, S] x) => (float[N, S] y) { e = Exp(x) s = Shape(x) a = Expand(e, s) y = Neg(a) }"""
    assert apply(SimplifyShapes(), text, tmp_path).ops == ["Exp", "Neg"]


def test_expanding_to_another_shape_stays(tmp_path):
    text = """g (float[1, S] x, float[N, S] w) => (float[N, S] y) { s = Shape(w) y = Expand(x, s) }"""
    assert apply(SimplifyShapes(), text, tmp_path).ops == ["Shape", "Expand"]


def test_expand_targets_with_minus_one_as_torchscript_writes_them(tmp_path):
    text = """g (float[N, S] x) => (float[N, S] y)
    <int64[2] ones = {1, 1}, int64[2] keep = {-1, -1}, int64[1] two = {2}>
    { e = Exp(x) none = Equal(keep, keep) s = Where(none, ones, keep) a = Expand(e, s) y = Neg(a) }"""
    assert apply(SimplifyShapes(), text, tmp_path).ops == ["Exp", "Neg"]


@pytest.mark.parametrize(("start", "stop", "expected"), [(-2, 9223372036854775807, [2, -1]), (1, 3, [2, -1])])
def test_slices_of_a_shape(start, stop, expected, tmp_path):
    text = f"""g (float[N, 2, 3] x) => (float[A, B] y) <int64[1] a = {{{start}}}, int64[1] b = {{{stop}}},
      int64[1] ax = {{0}}, int64[2] order = {{0, 1}}, int64[1] rest = {{-1}}, int64 i = {{0}}>
    {{ s = Shape(x) p = Slice(s, a, b, ax) f = Gather<axis: int = 0>(p, i) u = Unsqueeze(f, ax)
      t = Concat<axis: int = 0>(u, rest) y = Reshape(x, t) }}"""
    assert target(apply(SimplifyShapes(), text, tmp_path)) == expected


def test_unnamed_dimensions_have_symbols_of_their_own(tmp_path):
    text = """g (float[N, 2] x, int64[K] i) => (float[A, B] y) <int64[1] two = {2}>
    { k = Cast<to: int = 9>(i) c = Compress<axis: int = 0>(x, k) s = Shape<start: int = 0, end: int = 1>(c)
      t = Concat<axis: int = 0>(s, two) y = Reshape(c, t) }"""
    feeds = [{"x": np.ones((n, 2), np.float32), "i": np.ones(n, np.int64)} for n in (2, 3)]
    assert apply(SimplifyShapes(), text, tmp_path, feeds=feeds).ops == ["Cast", "Compress"]


def test_a_named_dimension_is_read_from_an_input(tmp_path):
    text = """g (float[N, S] x) => (float[1] y, float[1] z) { a = Exp(x) b = Neg(x)
      s = Shape<start: int = 1, end: int = 2>(a) t = Shape<start: int = 1>(b)
      y = Cast<to: int = 1>(s) z = Cast<to: int = 1>(t) }"""
    graph = apply(SimplifyShapes(), text, tmp_path).graph
    shapes = [node for node in graph.nodes if node.op == "Shape"]
    assert [(node.inputs[0].name, node.attrs["start"], node.attrs["end"]) for node in shapes] == [("x", 1, 2)] * 2
