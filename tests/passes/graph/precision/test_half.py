import numpy as np
import onnx
import pytest
from graphs import apply, parse

from enginery.passes.graph.ir import export_model
from enginery.passes.graph.precision.half import ConvertToHalf

MLP = """g (float[N, 4] x) => (float[N, 2] y)
    <float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, float[3] b = {1, 2, 3},
    float[3, 2] v = {1, 0.5, 2, 0.25, 3, 1}>
    { a = MatMul(x, w) c = Add(a, b) d = Relu(c) y = MatMul(d, v) }"""
TOLERANCE = 5e-3


def casts(done):
    return done.ops.count("Cast")


def half_weights(done, dtype=np.float16):
    return sorted(t.name for t in done.graph.tensors().values() if hasattr(t, "values") and t.values.dtype == dtype)


def test_weights_and_nodes_turn_half_with_a_cast_at_each_border(tmp_path):
    done = apply(ConvertToHalf(), MLP, tmp_path, tolerance=TOLERANCE)
    assert done.ops == ["Cast", "MatMul", "Add", "Relu", "MatMul", "Cast"]
    assert half_weights(done) == ["b", "v", "w"]
    assert [done.graph.inputs[0].dtype, done.graph.outputs[0].dtype] == [np.float32, np.float32]
    assert done.graph.outputs[0].name == "y"


def test_bfloat16_is_written_as_such(tmp_path):
    graph = parse(MLP)
    assert ConvertToHalf(to="bfloat16").apply(graph).changed == 4
    from enginery.passes.graph.ir import save_graph
    from enginery.passes.sequence import check

    check(graph)
    save_graph(graph, tmp_path / "b.onnx")
    kinds = {t.data_type for t in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize("op", ["Softmax", "Exp", "Sqrt"])
def test_what_needs_its_digits_stays_single(op, tmp_path):
    text = MLP.replace("d = Relu(c)", f"e = Relu(c) f = {op}(e) d = Neg(f)")
    text = text.replace(
        "float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}", "float[4, 3] w = {1,0,0,0,1,0,0,0,1,1,0,0}"
    )
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    (node,) = (node for node in done.graph.nodes if node.op == op)
    assert node.inputs[0].inputs[0].op == "Cast"
    assert casts(done) == 4


def test_nodes_that_the_user_keeps(tmp_path):
    graph = parse(MLP)
    for index, node in enumerate(graph.nodes):
        node.name = f"layer{index}"
    assert ConvertToHalf(keep=("layer[12]",)).apply(graph).changed == 2
    assert [node.op for node in graph.nodes].count("Cast") == 4


def test_moving_values_needs_no_cast(tmp_path):
    text = MLP.replace(
        "d = Relu(c)", "e = Relu(c) f = Transpose<perm: ints = [1, 0]>(e) d = Transpose<perm: ints = [1, 0]>(f)"
    )
    assert casts(apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)) == 2


def test_a_tensor_is_cast_once_for_all_its_readers(tmp_path):
    text = """g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}>
    { a = Mul(x, w) b = Add(x, w) c = Mul(a, b) y = Sub(c, x) }"""
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert casts(done) == 2


def test_a_constant_that_half_cannot_hold_keeps_its_node(tmp_path):
    text = MLP.replace("float[3] b = {1, 2, 3}", "float[3] b = {1, 2, 70000}")
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert "'b' holds 70000, more than float16 can" in done.reasons


def test_a_constant_that_hides_becomes_the_largest_half(tmp_path):
    text = """g (float[N, 4] x, bool[N, 4] m) => (float[N, 4] y) <float zero = {0}, float low = {-3.4028234e38}>
    { w = Where(m, zero, low) a = Add(x, w) y = Softmax(a) }"""
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert done.reasons == ""
    (low,) = (t for t in done.graph.tensors().values() if t.name == "low")
    assert float(low.values) == -65504


def test_rows_of_infinities_alone_are_still_guarded(tmp_path):
    text = """g (float[N, 4] x, bool[N, 4] m) => (float[N, 4] y) <float zero = {0}, float low = {-inf}>
    { w = Where(m, x, low) p = Softmax(w) n = IsNaN(p) g = Where(n, zero, p) y = Mul(g, x) }"""
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    feeds = [{"x": x, "m": np.array([[True, False, True, True], [False] * 4])}]
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE, feeds=feeds)
    assert [float(t.values) for t in done.graph.tensors().values() if t.name == "low"] == [-np.inf]


@pytest.mark.parametrize(
    "body",
    [
        "s = SequenceConstruct(x, w) y = SequenceAt(s, i)",
        "s = SplitToSequence<axis: int = 0>(x) y = ConcatFromSequence<axis: int = 0>(s)",
    ],
)
def test_sequences_stay_single(body, tmp_path):
    text = f"g (float[2, 2] x) => (float[A, B] y) <float[2, 2] w = {{1, 2, 3, 4}}, int64 i = {{1}}> {{ {body} }}"
    assert apply(ConvertToHalf(), text, tmp_path).result.changed == 0


def test_a_weight_that_a_single_node_shares_stays_for_it(tmp_path):
    text = """g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}>
    { a = Mul(x, w) s = Softmax(a) p = Pow(w, w) b = Add(s, p) y = Mul(b, w) }"""
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert half_weights(done) == ["w/half"]


def test_branches_stay_single(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) <float[1] w = {2}> { k = Mul(x, w)
      y = If (c) <then_branch = t () => (float[N] a) { a = Mul(k, k) },
                  else_branch = e () => (float[N] b) { b = Neg(k) }> }"""
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert done.ops == ["Cast", "Mul", "Cast", "If"]


def test_integers_and_index_inputs_are_left_alone(tmp_path):
    text = """g (int64[N] i) => (float[N, 2] y) <float[3, 2] table = {1, 2, 3, 4, 5, 6}, float[2] w = {1, 2}>
    { a = Gather(table, i) y = Mul(a, w) }"""
    done = apply(ConvertToHalf(), text, tmp_path, tolerance=TOLERANCE)
    assert done.ops == ["Gather", "Mul", "Cast"]


def test_what_makes_or_reads_a_tensor_that_was_seen_too_large_stays_single(tmp_path):
    done = apply(ConvertToHalf(large=("c",)), MLP, tmp_path, tolerance=TOLERANCE)
    kept = {node.op for node in done.graph.nodes if node.outputs[0].dtype == np.float32 and node.op != "Cast"}
    assert kept == {"Add", "Relu"}
    assert "'c' was seen with values that float16 cannot hold" in done.reasons


PAIRS = """g (float[N, 4] x) => (float[N, 2] y)
    <float sx = {0.1}, int8 zx = {0}, int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] sw = {0.1, 0.2},
    int8[2] zw = {0, 0}, float[2] b = {1, 2}>
    { n = Neg(x) q = QuantizeLinear(n, sx, zx) d = DequantizeLinear(q, sx, zx)
      dw = DequantizeLinear<axis: int = 1>(w, sw, zw) m = MatMul(d, dw) y = Add(m, b) }"""


def test_pairs_stay_single_unless_asked(tmp_path):
    done = apply(ConvertToHalf(), PAIRS, tmp_path, tolerance=TOLERANCE)
    assert half_weights(done) == ["b"]


def test_pairs_turn_half_with_what_computes_from_them(tmp_path):
    done = apply(ConvertToHalf(pairs=True), PAIRS, tmp_path, tolerance=TOLERANCE)
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert done.ops == ["Cast", "Neg", *pair, "DequantizeLinear", "MatMul", "Add", "Cast"]
    assert half_weights(done) == ["b", "sw", "sx"]


SMALL = PAIRS.replace("{0.1, 0.2}", "{0.1, 0.00001}")


@pytest.mark.parametrize(
    ("text", "options", "opset", "reason"),
    [
        (SMALL, {}, 20, "the scale of 1e-05 of DequantizeLinear -> dw is below what float16 holds in full"),
        (SMALL, {}, 20, "product: kept in float32: DequantizeLinear -> d in front of it stays there"),
        (PAIRS, {"large": ("m",)}, 20, "'m' was seen with values that float16 cannot hold"),
        (PAIRS, {"keep": ("product",)}, 20, "product, which computes from it, stays there"),
        (PAIRS, {}, 18, "opset 18 has no Q/DQ pairs of halves"),
    ],
)
def test_pairs_and_what_computes_from_them_stay_single_together(tmp_path, text, options, opset, reason):
    graph = parse(text, opset=opset)
    next(node for node in graph.nodes if node.op == "MatMul").name = "product"
    done = apply(ConvertToHalf(pairs=True, **options), export_model(graph), tmp_path, tolerance=TOLERANCE)
    (product,) = (node for node in done.graph.nodes if node.op == "MatMul")
    assert [tensor.inputs[0].op for tensor in product.inputs] == ["DequantizeLinear", "DequantizeLinear"]
    assert product.outputs[0].dtype == np.float32
    assert reason in done.reasons
