from graphs import apply, parse

from enginery.passes.graph.clean.merge_duplicate_nodes import MergeDuplicateNodes


def test_equal_towers_become_one(tmp_path):
    text = "g (float[N] x) => (float[N] y) { a = Exp(x) b = Exp(x) c = Neg(a) d = Neg(b) y = Mul(c, d) }"
    done = apply(MergeDuplicateNodes(), text, tmp_path)
    assert done.ops == ["Exp", "Neg", "Mul"]
    assert done.result.changed == 2


def test_attributes_and_input_order_count(tmp_path):
    text = """g (float[2, 2] x, float[2, 2] w) => (float[2, 2] y)
    { a = Sub(x, w) b = Sub(w, x) c = Transpose<perm: ints = [1, 0]>(a) d = Transpose<perm: ints = [0, 1]>(a)
      e = Mul(b, c) y = Mul(e, d) }"""
    assert apply(MergeDuplicateNodes(), text, tmp_path).result.changed == 0


def test_an_output_merges_with_a_value_inside(tmp_path):
    text = "g (float[N] x) => (float[N] y, float[N] z) { a = Exp(x) y = Exp(x) z = Neg(a) }"
    done = apply(MergeDuplicateNodes(), text, tmp_path)
    assert done.ops == ["Exp", "Neg"]
    assert [tensor.name for tensor in done.graph.outputs] == ["y", "z"]


def test_two_outputs_keep_a_node_each(tmp_path):
    text = "g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x) z = Exp(x) }"
    done = apply(MergeDuplicateNodes(), text, tmp_path)
    assert done.ops == ["Exp", "Exp"]
    assert "both are outputs" in done.reasons


def test_random_draws_are_not_equal():
    graph = parse(
        """g () => (float[2] y)
        { a = RandomNormal<shape: ints = [2]>() b = RandomNormal<shape: ints = [2]>() y = Mul(a, b) }"""
    )
    assert MergeDuplicateNodes().apply(graph).changed == 0


def test_quantize_pairs_stay_apart(tmp_path):
    text = """g (float[N] x) => (float[N] y) <float s = {0.1}, int8 z = {0}>
    { a = QuantizeLinear(x, s, z) b = QuantizeLinear(x, s, z) c = DequantizeLinear(a, s, z)
      d = DequantizeLinear(b, s, z) y = Add(c, d) }"""
    assert apply(MergeDuplicateNodes(), text, tmp_path).result.changed == 0


def test_constant_nodes_of_equal_value_merge(tmp_path):
    text = """g (float[N] x) => (float[N] y) { a = Constant<value: tensor = float {2.0}>()
      b = Constant<value: tensor = float {2.0}>() c = Constant<value: tensor = float {3.0}>()
      d = Mul(x, a) e = Mul(d, b) y = Mul(e, c) }"""
    assert apply(MergeDuplicateNodes(), text, tmp_path).result.changed == 1
