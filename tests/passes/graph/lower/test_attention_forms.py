"""The three forms that attention is lowered to start from the same graph and must agree."""

import pytest
from graphs import apply, attributes, ops

from enginery.passes.graph.clean.merge_reshapes import MergeReshapes
from enginery.passes.graph.clean.merge_transposes import MergeTransposes
from enginery.passes.graph.clean.remove_identities import RemoveIdentities
from enginery.passes.graph.clean.simplify_shapes import SimplifyShapes
from enginery.passes.graph.lower.multi_head_attention import LowerToMultiHeadAttention
from enginery.passes.graph.lower.packed_attention import PackAttention
from enginery.passes.graph.lower.primitive_attention import LowerToPrimitiveAttention

FORMS = [LowerToMultiHeadAttention(), PackAttention(), LowerToPrimitiveAttention()]

INPUTS = "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v"


def attention(*, inputs=INPUTS, call="Attention<scale: float = 0.3>(q, k, v)", output="float[B, 3, S, 4] y"):
    return f"g ({inputs}) => ({output}) {{ y = {call} }}"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("call", ["Attention<scale: float = 0.3>(q, k, v)", "Attention(q, k, v)"])
def test_every_form_computes_the_same(form, call, tmp_path):
    done = apply(form, attention(call=call), tmp_path, opset=23, ir_version=11)
    assert done.result.changed == 1
    assert ("Attention" in done.ops) == isinstance(form, PackAttention)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_mask_goes_along(form, tmp_path):
    text = attention(inputs=INPUTS + ", float[1, 1, S, T] m", call="Attention<scale: float = 0.3>(q, k, v, m)")
    assert apply(form, text, tmp_path, opset=23, ir_version=11).result.changed == 1


def test_a_boolean_mask_of_a_primitive_form_is_additive(tmp_path):
    text = attention(inputs=INPUTS + ", int64[1, 1, S, T] i", call="Attention(q, k, v, m)").replace(
        "{ y", "{ c = Cast<to: int = 9>(i) one = Constant<value: tensor = bool {1}>() m = Or(c, one) y"
    )
    done = apply(LowerToPrimitiveAttention(), text, tmp_path, opset=23, ir_version=11)
    assert "Where" in done.ops
    assert "Attention" not in done.ops


PROJECTED = """g (float[B, S, 6] x, float[B, S, 6] z) => (float[B, S, 6] y)
    <int64[4] split = {0, 0, 3, 2}, int64[3] all = {0, 0, 6}>
    { a = Reshape(x, split) b = Reshape(z, split) q = Transpose<perm: ints = [0, 2, 1, 3]>(a)
      k = Transpose<perm: ints = [0, 2, 1, 3]>(b) h = Attention(q, k, k)
      t = Transpose<perm: ints = [0, 2, 1, 3]>(h) y = Reshape(t, all) }"""


@pytest.mark.parametrize("form", FORMS[:2], ids=lambda form: form.name)
def test_nothing_but_attention_is_left_between_projections(form, tmp_path):
    graph = apply(form, PROJECTED, tmp_path, opset=23, ir_version=11).graph
    for tidy in (MergeTransposes(), MergeReshapes(), SimplifyShapes(), RemoveIdentities()):
        tidy.apply(graph)
    assert len(ops(graph)) == 1
    assert [tensor.name for tensor in graph.nodes[0].inputs][:2] == ["x", "z"]
    assert graph.outputs[0].name == "y"


def test_fewer_heads_of_keys_are_packed_as_groups(tmp_path):
    inputs = "float[B, 4, S, 2] q, float[B, 2, T, 2] k, float[B, 2, T, 2] v"
    text = attention(inputs=inputs, output="float[B, 4, S, 2] y")
    done = apply(PackAttention(), text, tmp_path, opset=23, ir_version=11)
    attrs = attributes(done.graph, "Attention")
    assert (attrs["q_num_heads"], attrs["kv_num_heads"]) == (4, 2)


def test_fewer_heads_of_keys_are_left(tmp_path):
    inputs = "float[B, 4, S, 2] q, float[B, 2, T, 2] k, float[B, 2, T, 2] v"
    text = attention(inputs=inputs, output="float[B, 4, S, 2] y")
    done = apply(LowerToMultiHeadAttention(), text, tmp_path, opset=23, ir_version=11)
    assert done.result.changed == 0
    assert "have 4, 2 and 2 heads" in done.reasons


@pytest.mark.parametrize("groups", [1, 2])
def test_fewer_heads_of_keys_are_repeated_or_broadcast_in_primitives(groups, tmp_path):
    inputs = f"float[B, 4, S, 2] q, float[B, {groups}, T, 2] k, float[B, {groups}, T, 2] v"
    text = attention(inputs=inputs, output="float[B, 4, S, 2] y")
    done = apply(LowerToPrimitiveAttention(), text, tmp_path, opset=23, ir_version=11)
    assert done.ops.count("Expand") == (2 if groups == 2 else 0)
    assert "Attention" not in done.ops


CAUSAL = "Attention<is_causal: int = 1>(q, k, v)"


def test_causal_attention_is_left(tmp_path):
    done = apply(LowerToMultiHeadAttention(), attention(call=CAUSAL), tmp_path, opset=23, ir_version=11)
    assert "causal" in done.reasons


@pytest.mark.parametrize("mask", ["", ", m"])
def test_causal_attention_gets_its_mask_in_primitives(mask, tmp_path):
    text = attention(inputs=INPUTS + ", float[1, 1, S, T] m", call=CAUSAL.replace("v)", f"v{mask})"))
    done = apply(LowerToPrimitiveAttention(), text, tmp_path, opset=23, ir_version=11)
    assert "LessOrEqual" in done.ops
    assert "Attention" not in done.ops


CAPPED = "Attention<softcap: float = 5.0>(q, k, v, m)"


def test_capped_attention_is_left(tmp_path):
    text = attention(inputs=INPUTS + ", float[1, 1, S, T] m", call=CAPPED)
    assert "soft-capped" in apply(LowerToMultiHeadAttention(), text, tmp_path, opset=23, ir_version=11).reasons


def test_capped_attention_gets_its_cap_in_primitives(tmp_path):
    text = attention(inputs=INPUTS + ", float[1, 1, S, T] m", call=CAPPED)
    done = apply(LowerToPrimitiveAttention(), text, tmp_path, opset=23, ir_version=11)
    assert done.ops.index("Tanh") < done.ops.index("Add")
    assert "Attention" not in done.ops


def test_a_result_that_goes_on_in_another_layout_keeps_its_heads_apart(tmp_path):
    text = """g (float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v) => (float[B, 3, 4, S] y)
    { a = Attention(q, k, v) y = Transpose<perm: ints = [0, 1, 3, 2]>(a) }"""
    done = apply(PackAttention(), text, tmp_path, opset=23, ir_version=11)
    assert done.result.changed == 0
    assert "transposed by [0, 1, 3, 2]" in done.reasons


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_heads_that_are_not_fixed_are_left(form, tmp_path):
    inputs = INPUTS.replace("3", "H")
    done = apply(form, attention(inputs=inputs, output="float[B, H, S, 4] y"), tmp_path, opset=23, ir_version=11)
    assert "both must be fixed" in done.reasons


def test_a_boolean_mask_is_left_to_the_standard_op(tmp_path):
    text = attention(inputs=INPUTS + ", bool[1, 1, S, T] m", call="Attention(q, k, v, m)")
    done = apply(LowerToMultiHeadAttention(), text, tmp_path, opset=23, ir_version=11)
    assert "'m' is not additive" in done.reasons
