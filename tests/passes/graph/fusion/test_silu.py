import pytest
from graphs import apply

from enginery.passes.graph.fusion.silu import FuseSilu

HEAD = "g (float[N, 4] x) => (float[N, 4] y{more}) <float one = {{1}}, float two = {{2}}>"


@pytest.mark.parametrize(
    "body",
    [
        "n = Neg(x) e = Exp(n) d = Add(e, one) y = Div(x, d)",
        "n = Neg(x) e = Exp(n) d = Add(one, e) i = Div(one, d) y = Mul(i, x)",
        "n = Neg(x) e = Exp(n) d = Add(one, e) i = Reciprocal(d) y = Mul(x, i)",
    ],
)
def test_every_way_to_write_it(body, tmp_path):
    assert apply(FuseSilu(), f"{HEAD.format(more='')} {{ {body} }}", tmp_path).ops == ["Sigmoid", "Mul"]


def test_the_op_of_opset_24(tmp_path):
    done = apply(FuseSilu(), f"{HEAD.format(more='')} {{ y = Swish(x) }}", tmp_path, opset=24)
    assert done.ops == ["Sigmoid", "Mul"]


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("y = Swish<alpha: float = 2.0>(x)", "", "its alpha is 2, not 1"),
        ("n = Neg(x) e = Exp(n) d = Add(e, one) y = Div(x, d)", ", float[N, 4] d", "'d' is a graph output"),
        ("n = Neg(x) e = Exp(n) d = Add(e, two) y = Div(x, d)", "", ""),
    ],
)
def test_what_is_left(body, more, reason, tmp_path):
    done = apply(FuseSilu(), f"{HEAD.format(more=more)} {{ {body} }}", tmp_path, opset=24)
    assert done.result.changed == 0
    assert reason in done.reasons
