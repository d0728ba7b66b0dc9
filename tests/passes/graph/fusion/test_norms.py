import re

import pytest
from graphs import apply, attributes

from enginery.passes.graph.fusion.layer_norm import FuseLayerNorm
from enginery.passes.graph.fusion.rms_norm import FuseRMSNorm

HEAD = """g (float[N, S, 4] x) => (float[N, S, 4] y) <float two = {2}, float one = {1}, float minus_half = {-0.5},
    float eps = {0.001}, int64[1] last = {-1}, int64[1] first = {0}, int64[2] both = {1, 2},
    float[4] w = {1, 2, -3, 4}, float[4] b = {0.5, 0, 1, 2}, float[1, 4] wide = {1, 2, 3, 4}, float scalar = {2}>"""
MEAN = "p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, eps)"
ROOTS = [
    "r = Sqrt(e) n = Div(x, r)",
    "r = Sqrt(e) i = Reciprocal(r) n = Mul(x, i)",
    "r = Sqrt(e) i = Div(one, r) n = Mul(i, x)",
    "i = Pow(e, minus_half) n = Mul(x, i)",
]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("square", ["p = Pow(x, two)", "p = Mul(x, x)"])
def test_every_way_to_write_rms_norm(square, root, tmp_path):
    text = f"{HEAD} {{ {MEAN.replace('p = Pow(x, two)', square)} {root} y = Mul(n, w) }}"
    done = apply(FuseRMSNorm(), text, tmp_path)
    assert done.ops == ["RMSNormalization"]
    assert attributes(done.graph, "RMSNormalization")["epsilon"] == pytest.approx(0.001)


def test_rms_norm_of_an_older_opset_has_its_axes_as_attribute(tmp_path):
    text = f"{HEAD} {{ p = Pow(x, two) m = ReduceMean<axes: ints = [-1]>(p) e = Add(m, eps) {ROOTS[0]} y = Mul(w, n) }}"
    assert apply(FuseRMSNorm(), text, tmp_path, opset=17).ops == ["RMSNormalization"]


def test_reductions_elsewhere_are_adapted_when_the_opset_is_raised(tmp_path):
    text = f"""{HEAD.replace("=> (", "=> (float[N, 1, 4] z, ")} {{ p = Pow(x, two) m = ReduceMean<axes: ints = [-1]>(p)
    e = Add(m, eps) {ROOTS[0]} y = Mul(w, n) z = ReduceMax<axes: ints = [1]>(x) }}"""
    done = apply(FuseRMSNorm(), text, tmp_path, opset=17)
    assert sorted(done.ops) == ["RMSNormalization", "ReduceMax"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{MEAN.replace('last', 'both')} {ROOTS[0]} y = Mul(n, w)", r"a mean over axes \[1, 2\]"),
        (f"{MEAN} {ROOTS[0]} y = Mul(n, wide)", "the scale 'wide' has shape"),
        (f"{MEAN} {ROOTS[0]} y = Mul(n, scalar)", "the scale 'scalar' has shape"),
    ],
)
def test_rms_norm_that_the_op_cannot_express_is_left(body, reason, tmp_path):
    done = apply(FuseRMSNorm(), f"{HEAD} {{ {body} }}", tmp_path)
    assert done.result.changed == 0
    assert re.search(reason, done.reasons)


def test_rms_norm_with_a_value_that_is_an_output_is_left(tmp_path):
    text = f"{HEAD.replace('=> (', '=> (float[N, S, 4] n, ')} {{ {MEAN} {ROOTS[0]} y = Mul(n, w) }}"
    assert "'n' is a graph output" in apply(FuseRMSNorm(), text, tmp_path).reasons


CENTERED = "u = ReduceMean(x, last) d = Sub(x, u)"


@pytest.mark.parametrize("root", ["r = Sqrt(e) n = Div(d, r)", "r = Sqrt(e) i = Reciprocal(r) n = Mul(d, i)"])
@pytest.mark.parametrize("square", ["p = Pow(d, two)", "p = Mul(d, d)", "d2 = Sub(x, u) p = Pow(d2, two)"])
def test_every_way_to_write_layer_norm(square, root, tmp_path):
    text = (
        f"{HEAD} {{ {CENTERED} {square} m = ReduceMean(p, last) e = Add(m, eps) {root} s = Mul(n, w) y = Add(s, b) }}"
    )
    done = apply(FuseLayerNorm(), text, tmp_path)
    assert done.ops == ["LayerNormalization"]


def test_layer_norm_over_another_axis_is_left(tmp_path):
    text = f"""{HEAD} {{ {CENTERED.replace("last", "first")} p = Pow(d, two) m = ReduceMean(p, last) e = Add(m, eps)
    r = Sqrt(e) n = Div(d, r) s = Mul(n, w) y = Add(s, b) }}"""
    assert "a mean over axes [0]" in apply(FuseLayerNorm(), text, tmp_path).reasons


def test_layer_norm_with_a_bias_of_another_shape_is_left(tmp_path):
    text = f"""{HEAD} {{ {CENTERED} p = Pow(d, two) m = ReduceMean(p, last) e = Add(m, eps)
    r = Sqrt(e) n = Div(d, r) s = Mul(n, w) y = Add(s, scalar) }}"""
    assert "the bias 'scalar'" in apply(FuseLayerNorm(), text, tmp_path).reasons
