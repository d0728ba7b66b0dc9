import pytest
from graphs import apply, feeds_for, parse_model

from enginery.passes.graph.clean.select_early import SelectEarly


def selection(body, *, index="int64 at = {0}", inputs="float[N, S, 4] x", outputs="float[N, 4] y", axis=1):
    """One position of h, which `body` makes of x."""
    weights = "float[4, 4] w = {1,2,3,4,4,3,2,1,0,1,0,1,2,0,2,0}, float[4] b = {1,2,3,4}"
    return f"""g ({inputs}) => ({outputs}) <{index}, {weights}>
    {{ {body} y = Gather<axis: int = {axis}>(h, at) }}"""


@pytest.mark.parametrize("index", ["int64 at = {0}", "int64 at = {-1}"])
def test_a_product_is_computed_for_one_position(index, tmp_path):
    done = apply(SelectEarly(), selection("m = MatMul(x, w) h = Add(m, b)", index=index), tmp_path)
    assert done.ops == ["Gather", "MatMul", "Add", "Squeeze"]


def test_a_list_of_one_position_keeps_its_axis(tmp_path):
    text = selection("m = MatMul(x, w) h = Add(b, m)", index="int64[1] at = {0}", outputs="float[N, 1, 4] y")
    assert apply(SelectEarly(), text, tmp_path).ops == ["Gather", "MatMul", "Add"]


def test_both_ways_of_a_residual_are_selected_once(tmp_path):
    body = "n = LayerNormalization(x, b, b) m = MatMul(n, w) g = Gelu(m) h = Add(x, g)"
    done = apply(SelectEarly(), selection(body), tmp_path)
    assert done.ops == ["Gather", "LayerNormalization", "MatMul", "Gelu", "Add", "Squeeze"]


def test_what_something_else_reads_is_selected_after_it(tmp_path):
    text = selection("m = MatMul(x, w) h = MatMul(m, w)", outputs="float[N, 4] y, float[N, S, 4] m")
    assert apply(SelectEarly(), text, tmp_path).ops == ["MatMul", "Gather", "MatMul", "Squeeze"]


@pytest.mark.parametrize(
    ("body", "axis"),
    [
        ("h = Add(x, b)", 1),
        ("m = MatMul(x, w) h = Softmax<axis: int = 1>(m)", 1),
        ("m = MatMul(x, w) h = LayerNormalization<axis: int = 1>(m, b, b)", 1),
        ("t = Transpose<perm: ints = [0, 2, 1]>(x) p = MatMul(x, t) h = MatMul(p, x)", 2),
        ("m = MatMul(x, w) h = ReduceSum<keepdims: int = 1>(m)", 1),
    ],
    ids=["no product", "across positions", "normalized across them", "columns", "unknown"],
)
def test_selections_that_stay(body, axis, tmp_path):
    done = apply(SelectEarly(), selection(body, axis=axis, outputs="float[A, B] y"), tmp_path)
    assert done.result.changed == 0


@pytest.mark.parametrize("softmax", ["Softmax<axis: int = -1>", "Softmax<axis: int = 2>"])
def test_a_softmax_within_positions(softmax, tmp_path):
    done = apply(SelectEarly(), selection(f"m = MatMul(x, w) h = {softmax}(m)"), tmp_path)
    assert done.ops == ["Gather", "MatMul", "Softmax", "Squeeze"]


def test_several_positions_stay(tmp_path):
    text = selection("h = MatMul(x, w)", index="int64[2] at = {0, 0}", outputs="float[N, 2, 4] y")
    assert apply(SelectEarly(), text, tmp_path).result.changed == 0


def test_every_input_with_positions_is_selected(tmp_path):
    text = selection("m = MatMul(x, w) h = Add(m, z)", inputs="float[N, S, 4] x, float[N, S, 4] z")
    assert apply(SelectEarly(), text, tmp_path).ops == ["Gather", "MatMul", "Gather", "Add", "Squeeze"]


def test_an_input_that_may_broadcast_stays(tmp_path):
    text = selection("m = MatMul(x, w) h = Add(m, z)", inputs="float[N, S, 4] x, float[N, U, 4] z")
    sizes = ({"S": 3, "U": 1}, {"S": 3, "U": 3})
    feeds = [feeds_for(parse_model(text), {"N": 2} | each) for each in sizes]
    assert apply(SelectEarly(), text, tmp_path, feeds=feeds).result.changed == 0


def test_rows_of_gemm(tmp_path):
    text = selection("h = Gemm(x, w, b)", inputs="float[N, 4] x", outputs="float[4] y", axis=0)
    assert apply(SelectEarly(), text, tmp_path).ops == ["Gather", "Gemm", "Squeeze"]


def test_a_bias_of_rows_stays(tmp_path):
    text = selection("h = Gemm(x, w, z)", inputs="float[N, 4] x, float[N, 4] z", outputs="float[4] y", axis=0)
    assert apply(SelectEarly(), text, tmp_path).result.changed == 0


def attention(call, *, inputs="", perm="[0, 2, 1, 3]"):
    """The first position of attention over heads, with the transpose behind it."""
    return f"""g (float[N, 2, S, 4] q, float[N, 2, T, 4] k, float[N, 2, T, 4] v{inputs}) => (float[N, 2, 4] y)
    <int64 at = {{0}}> {{ a = {call} t = Transpose<perm: ints = {perm}>(a) y = Gather<axis: int = 1>(t, at) }}"""


@pytest.mark.parametrize(
    ("call", "inputs", "gathers"),
    [
        ("Attention(q, k, v)", "", 1),
        ("Attention(q, k, v, m)", ", float[N, 1, S, T] m", 2),
    ],
)
def test_queries_of_attention(call, inputs, gathers, tmp_path):
    done = apply(SelectEarly(), attention(call, inputs=inputs), tmp_path, opset=23, ir_version=11)
    assert done.ops == [*["Gather"] * gathers, "Attention", "Transpose", "Squeeze"]


def test_one_row_of_the_mask_for_all_queries(tmp_path):
    text = attention("Attention(q, k, v, m)", inputs=", float[N, 1, 1, T] m").replace("S, 4] q", "1, 4] q")
    done = apply(SelectEarly(), text, tmp_path, opset=23, ir_version=11)
    assert done.ops == ["Gather", "Attention", "Transpose", "Squeeze"]


def test_a_mask_whose_rows_are_not_known_to_be_the_queries(tmp_path):
    text = attention("Attention(q, k, v, m)", inputs=", float[N, 1, R, T] m")
    feeds = [feeds_for(parse_model(text, opset=23, ir_version=11), {"N": 2, "S": 3, "T": 4, "R": 3})]
    assert apply(SelectEarly(), text, tmp_path, feeds=feeds, opset=23, ir_version=11).result.changed == 0


def test_causal_attention_is_selected_after_it(tmp_path):
    done = apply(SelectEarly(), attention("Attention<is_causal: int = 1>(q, k, v)"), tmp_path, opset=23, ir_version=11)
    assert done.result.changed == 0


def test_the_queries_of_self_attention_alone(tmp_path):
    text = """g (float[N, S, 4] x) => (float[N, 4] y) <int64 at = {0}>
    { a = Attention<q_num_heads: int = 2, kv_num_heads: int = 2>(x, x, x) y = Gather<axis: int = 1>(a, at) }"""
    assert apply(SelectEarly(), text, tmp_path, opset=23, ir_version=11).ops == ["Gather", "Attention", "Squeeze"]
