import numpy as np
from graphs import apply, parse

from enginery.passes.graph.clean.fold_constants import FoldConstants


def test_constant_nodes_become_initializers(tmp_path):
    text = "g (float[N, 2] x) => (float[N, 2] y) { c = Constant<value_floats: floats = [1.0, 2.0]>() y = Add(x, c) }"
    done = apply(FoldConstants(), text, tmp_path)
    assert done.ops == ["Add"]
    assert done.result.changed == 1


def test_a_tower_of_constants_is_computed_in_one_run(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>
    { c = Mul(a, b) d = Exp(c) e = Sub(d, a) y = Add(x, e) }"""
    done = apply(FoldConstants(), text, tmp_path)
    assert done.ops == ["Add"]
    np.testing.assert_allclose(done.graph.nodes[0].inputs[1].values, np.exp([3.0, 8.0]) - [1, 2], rtol=1e-6)


def test_a_result_over_the_limit_is_kept(tmp_path):
    text = """g (float[1000] x) => (float[1000] y) <int64[1] n = {1000}, float[1] v = {3}>
    { c = Expand(v, n) y = Add(x, c) }"""
    done = apply(FoldConstants(limit=1024), text, tmp_path)
    assert done.ops == ["Expand", "Add"]
    assert "4000 bytes, more than the limit of 1024" in done.reasons
    assert apply(FoldConstants(limit=8192), text, tmp_path).ops == ["Add"]


def test_the_limit_holds_where_shape_inference_does_not_know_the_size(tmp_path):
    text = """g (float[1] x) => (float[N] y) <int64 stop = {100000}, int64 start = {0}, int64 step = {1}>
    { c = Range(start, stop, step) f = Cast<to: int = 1>(c) y = Add(x, f) }"""
    done = apply(FoldConstants(limit=1024), text, tmp_path)
    assert done.ops == ["Range", "Cast", "Add"]
    assert "800000 bytes" in done.reasons


def test_a_result_no_larger_than_its_inputs_is_folded_whatever_the_limit(tmp_path):
    text = """g (float[N, 3] x) => (float[N, 2] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}>
    { t = Transpose<perm: ints = [1, 0]>(w) y = MatMul(x, t) }"""
    assert apply(FoldConstants(limit=0), text, tmp_path).ops == ["MatMul"]


def test_random_nodes_are_kept():
    graph = parse("g () => (float[2] y) { r = RandomNormal<shape: ints = [2]>() y = Identity(r) }")
    assert FoldConstants().apply(graph).changed == 0


def test_dequantized_weights_are_kept(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <int8[2] w = {3, 4}, float s = {0.5}, int8 z = {0}>
    { d = DequantizeLinear(w, s, z) y = Add(x, d) }"""
    assert apply(FoldConstants(), text, tmp_path).ops == ["DequantizeLinear", "Add"]


def test_an_initializer_that_is_an_input_is_no_constant(tmp_path):
    text = "g (float[N, 2] x, float[2] w) => (float[N, 2] y) <float[2] w = {1, 2}> { e = Exp(w) y = Add(x, e) }"
    assert apply(FoldConstants(), text, tmp_path).ops == ["Exp", "Add"]


def test_a_constant_output_keeps_its_node(tmp_path):
    text = "g (float[2] x) => (float[2] y, float[2] z) <float[2] a = {1, 2}> { y = Exp(x) z = Exp(a) }"
    assert apply(FoldConstants(), text, tmp_path).ops == ["Exp", "Exp"]


def test_constants_in_a_branch_are_folded_there(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) {
      y = If (c) <then_branch = t () => (float[N] a) {
        k = Constant<value_float: float = 2.0>() l = Exp(k) a = Mul(x, l) },
                  else_branch = e () => (float[N] b) { b = Neg(x) }> }"""
    done = apply(FoldConstants(), text, tmp_path)
    assert [node.op for node in next(done.graph.subgraphs()).nodes] == ["Mul"]
    assert done.result.changed == 2


def test_function_bodies_are_left_alone(tmp_path):
    text = "g (float[N] x) => (float[N] y) { y = local.f(x) }"
    body = """<domain: "local", opset_import: ["" : 20]>
    f (a) => (b) { c = Constant<value_float: float = 2.0>() b = Mul(a, c) }"""
    assert apply(FoldConstants(), text, tmp_path, functions=body).result.changed == 0


def test_a_sequence_of_constants_is_kept(tmp_path):
    text = """g (int64 i) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>
    { s = SequenceConstruct(a, b) y = SequenceAt(s, i) }"""
    assert apply(FoldConstants(), text, tmp_path).ops == ["SequenceConstruct", "SequenceAt"]
