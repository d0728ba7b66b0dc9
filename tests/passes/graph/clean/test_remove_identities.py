import pytest
from graphs import apply

from enginery.passes.graph.clean.remove_identities import RemoveIdentities


@pytest.mark.parametrize(
    "node",
    [
        "a = Identity(e)",
        "a = Dropout(e)",
        "a, m = Dropout(e, r, off)",
        "a = Cast<to: int = 1>(e)",
        "a = Transpose<perm: ints = [0, 1]>(e)",
        "a = Concat<axis: int = 0>(e)",
        "a = Max(e)",
        "a = Pad(e, nothing)",
        "a = Add(e, zero)",
        "a = Add(zero, e)",
        "a = Sub(e, zero)",
        "a = Mul(e, one)",
        "a = Div(e, one)",
    ],
)
def test_a_node_that_hands_its_input_on_goes(node, tmp_path):
    text = f"""g (float[N, 2] x) => (float[N, 2] y) <float[1] zero = {{0}}, float one = {{1}}, bool off = {{0}},
    float r = {{0.5}}, int64[4] nothing = {{0, 0, 0, 0}}> {{ e = Exp(x) {node} y = Neg(a) }}"""
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Exp", "Neg"]


@pytest.mark.parametrize(
    "node",
    [
        "a = Transpose<perm: ints = [1, 0]>(e)",
        "a = Transpose(e)",
        "a = Sub(zero, e)",
        "a = Div(one, e)",
        "a = Add(e, one)",
        "a = Mul(e, ones)",
        "a = Add(e, wide)",
        "a = Pad(e, something)",
    ],
)
def test_a_node_that_computes_stays(node, tmp_path):
    text = f"""g (float[2, 2] x) => (float y) <float[1] zero = {{0}}, float one = {{1}}, float[1, 1, 1] wide = {{0}},
    float[2, 2] ones = {{1, 1, 1, 2}}, int64[4] something = {{0, 0, 0, 1}}>
    {{ e = Exp(x) {node} y = ReduceMax<keepdims: int = 0>(a) }}"""
    assert apply(RemoveIdentities(), text, tmp_path).result.changed == 0


@pytest.mark.parametrize("op", ["Reshape", "Expand"])
def test_a_reshape_to_the_same_static_shape_goes(op, tmp_path):
    text = f"""g (float[2, 3] x) => (float[2, 3] y) <int64[2] s = {{2, 3}}>
    {{ e = Exp(x) a = {op}(e, s) y = Neg(a) }}"""
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Exp", "Neg"]


def test_a_dropout_whose_mask_is_read_stays(tmp_path):
    text = "g (float[N] x) => (float[N] y, bool[N] z) { y, m = Dropout(x) z = Not(m) }"
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Dropout", "Not"]


def test_a_chain_goes_at_once_and_the_output_keeps_its_name(tmp_path):
    text = "g (float[N] x) => (float[N] y) { a = Exp(x) b = Identity(a) c = Identity(b) y = Identity(c) }"
    done = apply(RemoveIdentities(), text, tmp_path)
    assert done.ops == ["Exp"]
    assert done.graph.outputs[0].name == "y"


def test_other_readers_of_a_renamed_value_follow(tmp_path):
    text = "g (float[N] x) => (float[N] y, float[N] z) { a = Exp(x) y = Identity(a) z = Neg(a) }"
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Exp", "Neg"]


def test_an_input_that_is_an_output_keeps_its_identity(tmp_path):
    text = "g (float[N] x) => (float[N] y, float[N] z) { y = Identity(x) a = Exp(x) z = Neg(a) }"
    done = apply(RemoveIdentities(), text, tmp_path)
    assert done.ops == ["Identity", "Exp", "Neg"]
    assert "needs a node of its own" in done.reasons


def test_one_value_under_two_output_names_keeps_one_identity(tmp_path):
    text = "g (float[N] x) => (float[N] y, float[N] z) { a = Exp(x) y = Identity(a) z = Identity(a) }"
    done = apply(RemoveIdentities(), text, tmp_path)
    assert sorted(done.ops) == ["Exp", "Identity"]


def test_a_branch_that_hands_on_an_outer_value_keeps_its_identity(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) { k = Exp(x)
      y = If (c) <then_branch = t () => (float[N] a) { i = Identity(k) a = Identity(i) },
                  else_branch = e () => (float[N] b) { b = Neg(x) }> }"""
    done = apply(RemoveIdentities(), text, tmp_path)
    assert [node.op for node in next(done.graph.subgraphs()).nodes] == ["Identity"]


def test_identities_between_outer_values_and_branches_go(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) { k = Exp(x) i = Identity(k)
      y = If (c) <then_branch = t () => (float[N] a) { a = Mul(i, i) },
                  else_branch = e () => (float[N] b) { b = Neg(i) }> }"""
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Exp", "If"]


def test_function_bodies_are_cleaned(tmp_path):
    text = "g (float[N] x) => (float[N] y) { y = local.f(x) }"
    body = '<domain: "local", opset_import: ["" : 20]> f (a) => (b) { c = Identity(a) b = Neg(c) }'
    done = apply(RemoveIdentities(), text, tmp_path, functions=body)
    assert [node.op for node in done.graph.functions[0].nodes] == ["Neg"]


def test_a_dropout_whose_mask_is_a_graph_output_stays(tmp_path):
    text = "g (float[N] x) => (float[N] y, bool[N] m) { a, m = Dropout(x) y = Neg(a) }"
    assert apply(RemoveIdentities(), text, tmp_path).ops == ["Dropout", "Neg"]
