import numpy as np
import pytest
from graphs import apply

from enginery.passes.graph.fusion.attention import FuseAttention
from enginery.passes.graph.fusion.unfold_heads import UnfoldHeads

INPUTS = "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v, float[B, 3, S, T] r, float[1, S, T] one"
SHAPES = """s = Shape<start: int = 2, end: int = 3>(q) t = Shape<start: int = 2, end: int = 3>(k)
    n0 = Shape<start: int = 0, end: int = 1>(q) qs = Concat<axis: int = 0>(rest, s, four) fs = Concat<axis: int = 0>(rest, s, t)
    ks = Concat<axis: int = 0>(rest, t, four) ps = Concat<axis: int = 0>(rest, three, s, t)
    ys = Concat<axis: int = 0>(n0, three, s, four)"""  # noqa: E501
FOLDS = "qf = Reshape(q, qs) kf = Reshape(k, ks) vf = Reshape(v, ks)"


def folded(
    *,
    inputs=INPUTS,
    turned="kt = Transpose<perm: ints = [0, 2, 1]>(kf)",
    scores="l = BatchedMatMul",
    softmax="p = Softmax<axis: int = -1>(l)",
    outputs="float[B, 3, S, 4] y",
    end="y = Reshape(c, ys)",
):
    scores = scores.replace("BatchedMatMul", "MatMul(qf, kt)")
    return f"""g ({inputs}) => ({outputs})
        <int64[1] rest = {{-1}}, int64[1] three = {{3}}, int64[1] four = {{4}}, float half = {{0.5}}>
        {{ {SHAPES} {FOLDS} {turned} {scores} {softmax} c = MatMul(p, vf) {end} }}"""


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"scores": "m = BatchedMatMul l = Mul(m, half)"},
        {"turned": "d = Transpose<perm: ints = [0, 2, 1]>(kf) kt = Div(d, half)"},
        {"scores": "rf = Reshape(r, fs) m = BatchedMatMul l = Add(rf, m)"},
        {"scores": "m = BatchedMatMul l = Add(m, one)"},
        {"softmax": "h = Reshape(l, ps) ph = Softmax<axis: int = -1>(h) p = Reshape(ph, fs)"},
    ],
    ids=["plain", "scores scaled", "keys scaled", "a folded bias", "a bias for all", "softmax over heads"],
)
def test_products_are_computed_over_heads(parts, tmp_path):
    done = apply(UnfoldHeads(), folded(**parts), tmp_path)
    assert {len(node.outputs[0].shape) for node in done.graph.nodes if node.op in ("MatMul", "Softmax")} == {4}
    assert "Attention" in apply(FuseAttention(), _model(done), tmp_path).ops


def _model(done):
    from enginery.passes.graph.ir import export_model

    return export_model(done.graph)


def test_a_sum_with_something_of_the_folded_shape_unfolds_that(tmp_path):
    """BLOOM's slopes are computed over (batch * heads, 1, length)."""
    text = folded(inputs=INPUTS + ", float[A, 1, T] slopes", scores="m = BatchedMatMul l = Add(m, slopes)")
    rng = np.random.default_rng(0)
    feeds = [
        {
            "q": rng.standard_normal((b, 3, s, 4)).astype(np.float32),
            "k": rng.standard_normal((b, 3, t, 4)).astype(np.float32),
            "v": rng.standard_normal((b, 3, t, 4)).astype(np.float32),
            "r": np.zeros((b, 3, s, t), np.float32),
            "one": np.zeros((1, s, t), np.float32),
            "slopes": rng.standard_normal((3 * b, 1, t)).astype(np.float32),
        }
        for b, s, t in ((1, 2, 5), (2, 1, 3))
    ]
    done = apply(UnfoldHeads(), text, tmp_path, feeds=feeds)
    assert {len(node.outputs[0].shape) for node in done.graph.nodes if node.op == "Softmax"} == {4}


@pytest.mark.parametrize(
    "parts",
    [
        {"turned": "kt = Transpose<perm: ints = [0, 2, 1]>(kx)", "inputs": INPUTS + ", float[A, T, 4] kx"},
        {"inputs": INPUTS.replace("3, S, 4", "H, S, 4").replace("3, T, 4", "H, T, 4")},
    ],
    ids=["keys that nothing folded", "heads that are not fixed"],
)
def test_what_is_not_known_to_be_folded_stays(parts, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "q": rng.standard_normal((2, 3, 5, 4)).astype(np.float32),
        "k": rng.standard_normal((2, 3, 6, 4)).astype(np.float32),
        "v": rng.standard_normal((2, 3, 6, 4)).astype(np.float32),
        "r": np.zeros((2, 3, 5, 6), np.float32),
        "one": np.zeros((1, 5, 6), np.float32),
    }
    if "kx" in parts["inputs"]:
        arrays["kx"] = rng.standard_normal((6, 6, 4)).astype(np.float32)
    assert apply(UnfoldHeads(), folded(**parts), tmp_path, feeds=[arrays]).result.changed == 0


def test_a_fold_that_leads_to_no_product_stays(tmp_path):
    text = """g (float[B, 3, S, 4] q) => (float[A, S, 4] y)
        <int64[1] rest = {-1}, int64[1] four = {4}, float half = {0.5}>
        { s = Shape<start: int = 2, end: int = 3>(q) qs = Concat<axis: int = 0>(rest, s, four) f = Reshape(q, qs)
          y = Mul(f, half) }"""
    assert apply(UnfoldHeads(), text, tmp_path).result.changed == 0
