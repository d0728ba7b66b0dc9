import numpy as np
import pytest
from graphs import apply

from enginery.passes.graph.fusion.rotary import FuseRotary


def rotary(
    *, angles="t = Concat<axis: int = -1>(f, f)", turned="Concat<axis: int = -1>(n, a)", second="two, end", scale=""
):
    return f"""g (float[B, 3, S, 4] x, float[1, S, 2] f) => (float[B, 3, S, 4] y)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}, float k = {{1.5}},
     int64[1] end = {{9223372036854775807}}>
    {{ {angles} c0 = Cos(t) s0 = Sin(t) {scale or "c1 = Identity(c0)"} cos = Unsqueeze(c1, one) sin = Unsqueeze(s0, one)
      p = Mul(x, cos) a = Slice(x, zero, two, three, one) b = Slice(x, {second}, three, one) n = Neg(b)
      r = {turned} q = Mul(r, sin) y = Add(p, q) }}"""


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_cache_of_one_batch_serves_every_batch(batch, tmp_path):
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal((batch, 3, s, 4)).astype(np.float32), "f": rng.random((1, s, 2)).astype(np.float32)}
        for s in (1, 5)
    ]
    done = apply(FuseRotary(), rotary(), tmp_path, feeds=feeds)
    assert done.ops.count("RotaryEmbedding") == 1
    assert "Neg" not in done.ops


def test_scaled_cosines(tmp_path):
    assert "RotaryEmbedding" in apply(FuseRotary(), rotary(scale="c1 = Mul(c0, k)"), tmp_path).ops


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"angles": "g2 = Neg(f) t = Concat<axis: int = -1>(f, g2)"}, "does not join two equal halves"),
        ({"second": "one, three"}, "is not the second half"),
    ],
)
def test_other_rotations_are_left(options, reason, tmp_path):
    done = apply(FuseRotary(), rotary(**options), tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


def test_tables_from_outside_are_left(tmp_path):
    text = (
        rotary()
        .replace("float[1, S, 2] f", "float[1, S, 2] f, float[1, S, 4] t")
        .replace("t = Concat<axis: int = -1>(f, f)", "")
    )
    done = apply(FuseRotary(), text, tmp_path)
    assert "not shown to repeat its first half" in done.reasons


def test_heads_that_are_not_fixed_are_left(tmp_path):
    text = rotary().replace("[B, 3, S, 4]", "[B, H, S, 4]")
    assert "fixed heads is needed" in apply(FuseRotary(), text, tmp_path).reasons
