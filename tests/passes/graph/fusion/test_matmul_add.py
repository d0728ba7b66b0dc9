import pytest
from graphs import apply

from enginery.passes.graph.fusion.matmul_add import FuseMatMulAdd

HEAD = """g (float[N, S, 4] x) => ({outputs})
    <int64[2] rows = {{-1, 4}}, int64[2] halves = {{-1, 2}}, int64[1] three = {{3}},
    float[4, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}, float[3, 4] wt = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}},
    float[2, 3] small = {{1, 2, 3, 4, 5, 6}}, float[3] b = {{1, 2, 3}}, float[1, 3] row = {{1, 2, 3}},
    int64[1] ends = {{2}}, int64[1] zero = {{0}}>"""
BODY = """s = Shape<start: int = 0, end: int = 2>(x) t = Concat<axis: int = 0>(s, three) r = Reshape(x, rows)
    m = Gemm(r, w, b) y = Reshape(m, t)"""


def text(body=BODY, outputs="float[N, S, 3] y"):
    return f"{HEAD.format(outputs=outputs)} {{ {body} }}"


@pytest.mark.parametrize(("inputs", "expected"), [("w, b", 1), ("w, row", 1), ("w", 0)])
def test_a_linear_layer_on_rows(inputs, expected, tmp_path):
    done = apply(FuseMatMulAdd(), text(BODY.replace("w, b", inputs)), tmp_path)
    assert done.ops == ["MatMul", *["Add"] * expected]
    assert done.graph.nodes[0].inputs[1].name == "w"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Gemm(", "Gemm<alpha: float = 0.5>(", "alpha=0.5"),
        ("Gemm(r, w, b)", "Gemm<transB: int = 1>(r, wt, b)", "reads its weight transposed"),
        ("y = Reshape(m, t)", "y = Reshape(m, t) z = Neg(m)", "'m' is also read by"),
    ],
)
def test_what_is_left(old, new, reason, tmp_path):
    outputs = "float[N, S, 3] y, float[A, 3] z" if "z =" in new else "float[N, S, 3] y"
    done = apply(FuseMatMulAdd(), text(BODY.replace(old, new), outputs), tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


def test_rows_of_other_dimensions_are_left(tmp_path):
    body = "r = Reshape(x, halves) m = Gemm(r, small, b) six = Constant<value_ints: ints = [0, -1]>() "
    body += "s = Shape<start: int = 0, end: int = 1>(x) t = Constant<value_ints: ints = [-1, 6]>() y = Reshape(m, t)"
    done = apply(FuseMatMulAdd(), text(body, "float[A, 6] y"), tmp_path)
    assert "is cut into other rows" in done.reasons
