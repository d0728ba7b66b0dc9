import pytest
from graphs import apply, attributes

from enginery.passes.graph.fusion.gelu import FuseGelu

HEAD = """g (float[N, 4] x) => (float[N, 4] y) <float root = {1.4142135}, float inverse = {0.70710678}, float one = {1},
    float half = {0.5}, float two = {2}, float three = {3}, float c = {0.044715}, float k = {0.7978845608}>"""
ERF = "d = Div(x, root) e = Erf(d) a = Add(e, one)"
TANH = "p = Pow(x, three) q = Mul(p, c) s = Add(x, q) t = Mul(k, s) h = Tanh(t) a = Add(one, h)"


@pytest.mark.parametrize(
    "product",
    [
        "m = Mul(x, a) y = Mul(m, half)",
        "m = Mul(half, x) y = Mul(m, a)",
        "m = Mul(a, half) y = Mul(m, x)",
        "m = Div(a, two) y = Mul(x, m)",
        "m = Mul(x, a) y = Div(m, two)",
    ],
)
@pytest.mark.parametrize("inner", [ERF, TANH])
def test_every_grouping_of_the_factors(inner, product, tmp_path):
    done = apply(FuseGelu(), f"{HEAD} {{ {inner} {product} }}", tmp_path)
    assert done.ops == ["Gelu"]
    assert attributes(done.graph, "Gelu") == ({} if inner is ERF else {"approximate": "tanh"})


def test_the_factor_may_multiply_by_the_inverse_root(tmp_path):
    text = f"{HEAD} {{ d = Mul(x, inverse) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half) }}"
    assert apply(FuseGelu(), text, tmp_path).ops == ["Gelu"]


@pytest.mark.parametrize("cube", ["s2 = Mul(x, x) p = Mul(s2, x)", "s2 = Mul(x, x) p = Mul(x, s2)"])
def test_the_cube_may_be_two_products(cube, tmp_path):
    inner = TANH.replace("p = Pow(x, three)", cube)
    assert apply(FuseGelu(), f"{HEAD} {{ {inner} m = Mul(x, a) y = Mul(m, half) }}", tmp_path).ops == ["Gelu"]


@pytest.mark.parametrize("opset", [9, 17])
def test_an_older_model_is_raised_to_opset_20(opset, tmp_path):
    done = apply(FuseGelu(), f"{HEAD} {{ {ERF} m = Mul(x, a) y = Mul(m, half) }}", tmp_path, opset=opset)
    assert done.ops == ["Gelu"]
    assert done.graph.opset == 20


def test_a_model_that_cannot_be_raised_is_left(tmp_path):
    old = "r = Unsqueeze<axes: ints = [2]>(z) t = Concat<axis: int = 2>(r, r) u = Softmax(t) y = ReduceMax(u)"
    text = f"{HEAD.replace('[N, 4] y', '[A, B, C] y')} {{ {ERF} m = Mul(x, a) z = Mul(m, half) {old} }}"
    done = apply(FuseGelu(), text, tmp_path, opset=12, ir_version=7)
    assert done.result.changed == 0
    assert "it needs opset 20: 'Softmax -> u': Softmax changed its meaning in opset 13" in done.reasons


def test_a_value_that_is_an_output_keeps_the_whole(tmp_path):
    text = f"{HEAD.replace('=> (', '=> (float[N, 4] e, ')} {{ {ERF} m = Mul(x, a) y = Mul(m, half) }}"
    done = apply(FuseGelu(), text, tmp_path)
    assert done.result.changed == 0
    assert "'e' is a graph output" in done.reasons


def test_a_value_that_others_read_keeps_the_whole(tmp_path):
    text = f"{HEAD.replace('=> (', '=> (float[N, 4] z, ')} {{ {ERF} m = Mul(x, a) y = Mul(m, half) z = Neg(m) }}"
    done = apply(FuseGelu(), text, tmp_path)
    assert "'m' is also read by 'Neg -> z'" in done.reasons


@pytest.mark.parametrize(
    "body",
    [
        ERF.replace("root", "two") + " m = Mul(x, a) y = Mul(m, half)",
        ERF + " m = Mul(x, a) y = Mul(m, two)",
        ERF + " m = Mul(e, a) y = Mul(m, half)",
        TANH.replace("Mul(p, c)", "Mul(p, k)") + " m = Mul(x, a) y = Mul(m, half)",
    ],
)
def test_other_functions_are_left(body, tmp_path):
    assert apply(FuseGelu(), f"{HEAD} {{ {body} }}", tmp_path).result.changed == 0


def test_a_constant_that_the_caller_may_set_is_no_constant(tmp_path):
    text = f"{HEAD.replace('x)', 'x, float half)', 1)} {{ {ERF} m = Mul(x, a) y = Mul(m, half) }}"
    assert apply(FuseGelu(), text, tmp_path).result.changed == 0
