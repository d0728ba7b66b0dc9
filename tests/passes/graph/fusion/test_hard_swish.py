import pytest
from graphs import apply

from enginery.passes.graph.fusion.hard_swish import FuseHardSwish

HEAD = """g (float[N, 4] x) => (float[N, 4] y)
    <float zero = {0}, float three = {3}, float six = {6}, float sixth = {0.1666667}>"""
CLIP = "a = Add(x, three) c = Clip(a, zero, six)"


@pytest.mark.parametrize(
    "body",
    [
        f"{CLIP} d = Div(c, six) y = Mul(x, d)",
        f"{CLIP} d = Mul(c, sixth) y = Mul(d, x)",
        f"{CLIP} p = Mul(x, c) y = Div(p, six)",
        f"{CLIP} p = Mul(x, c) y = Mul(p, sixth)",
        "h = HardSigmoid<alpha: float = 0.16666667, beta: float = 0.5>(x) y = Mul(x, h)",
    ],
)
def test_every_way_to_write_it(body, tmp_path):
    assert apply(FuseHardSwish(), f"{HEAD} {{ {body} }}", tmp_path).ops == ["HardSwish"]


@pytest.mark.parametrize(
    "body",
    [
        f"{CLIP.replace('six', 'three')} d = Div(c, six) y = Mul(x, d)",
        f"{CLIP} d = Div(c, three) y = Mul(x, d)",
        f"{CLIP} d = Div(c, six) y = Mul(a, d)",
    ],
)
def test_other_functions_are_left(body, tmp_path):
    assert apply(FuseHardSwish(), f"{HEAD} {{ {body} }}", tmp_path).result.changed == 0


def test_another_hard_sigmoid_is_left_with_a_reason(tmp_path):
    done = apply(FuseHardSwish(), f"{HEAD} {{ h = HardSigmoid(x) y = Mul(x, h) }}", tmp_path)
    assert "alpha 0.2 and beta 0.5" in done.reasons
