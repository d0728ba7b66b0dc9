import numpy as np
from graphs import apply

from enginery.passes.graph.clean.merge_duplicate_weights import MergeDuplicateWeights


def test_equal_weights_become_one(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}>
    { d = Mul(x, a) e = Mul(d, b) y = Mul(e, c) }"""
    done = apply(MergeDuplicateWeights(), text, tmp_path)
    assert done.result.changed == 1
    assert set(done.graph.tensors()) >= {"a", "c"}
    assert "b" not in done.graph.tensors()


def test_equal_bytes_of_another_type_or_shape_stay(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {0, 0}, float[1, 2] b = {0, 0}, int32[2] c = {0, 0}>
    { d = Cast<to: int = 1>(c) e = Add(x, a) f = Add(e, b) y = Add(f, d) }"""
    assert apply(MergeDuplicateWeights(), text, tmp_path).result.changed == 0


def test_a_weight_that_the_caller_may_set_is_kept(tmp_path):
    text = """g (float[N, 2] x, float[2] a) => (float[N, 2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}>
    { d = Mul(x, a) y = Mul(d, b) }"""
    done = apply(MergeDuplicateWeights(), text, tmp_path)
    assert done.result.changed == 0
    assert "also an input" in done.reasons
    assert [tensor.name for tensor in done.graph.inputs] == ["x", "a"]
    np.testing.assert_array_equal(done.graph.inputs[1].values, [1, 2])
