import numpy as np
import pytest
from graphs import apply, attributes

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


PAIRS = """<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
     int64[1] last = {{-1}}, int64[1] second = {{-2}}, int64[5] twice = {{1, 1, 1, 1, 2}}, int64[4] table = {{{table}}},
     int64[4] whole = {{{whole}}}, int64[1] end = {{9223372036854775807}}>"""
STACKED = "{0}c = Concat<axis: int = -1>({0}u, {0}u) {0} = Reshape({0}c, table)"
EXPANDED = "{0}c = Expand({0}u, twice) {0} = Reshape({0}c, table)"


def interleaved(*, heads_first=True, repeated=STACKED, joined="n5, a5", axes="last", first="zero", cosines="f"):
    """RoFormer's (heads first) and GPT-J's (lengths first) rotation of neighbours."""
    shape, table, whole = (
        ("B, 3, S, 4", "1, 1, -1, 4", "0, 3, 0, 4") if heads_first else ("B, S, 3, 4", "1, -1, 1, 4", "0, 0, 3, 4")
    )
    angles = "1, 1, S, 2" if heads_first else "1, S, 1, 2"
    return f"""g (float[{shape}] x, float[{angles}] f, float[{angles}] h) => (float[{shape}] y)
    {PAIRS.format(table=table, whole=whole)}
    {{ cosu = Unsqueeze({cosines}, last) {repeated.format("cos")} sinu = Unsqueeze(h, last) {repeated.format("sin")}
      p = Mul(x, cos) a = Slice(x, {first}, end, three, two) b = Slice(x, one, end, three, two) n = Neg(b)
      a5 = Unsqueeze(a, {axes}) n5 = Unsqueeze(n, {axes}) t = Concat<axis: int = -1>({joined}) r = Reshape(t, whole)
      q = Mul(r, sin) y = Add(p, q) }}"""


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("repeated", [STACKED, EXPANDED], ids=["stacked", "expanded"])
@pytest.mark.parametrize("heads_first", [True, False])
def test_neighbours_in_both_layouts(batch, repeated, heads_first, tmp_path):
    rng = np.random.default_rng(0)
    order = (0, 1, 2, 3) if heads_first else (0, 2, 1, 3)
    feeds = [
        {
            "x": rng.standard_normal((batch, 3, s, 4)).astype(np.float32).transpose(order).copy(),
            "f": rng.random((1, 1, s, 2)).astype(np.float32).transpose(order).copy(),
            "h": rng.random((1, 1, s, 2)).astype(np.float32).transpose(order).copy(),
        }
        for s in (2, 5)
    ]
    done = apply(FuseRotary(), interleaved(heads_first=heads_first, repeated=repeated), tmp_path, feeds=feeds)
    assert attributes(done.graph, "RotaryEmbedding")["interleaved"] == 1
    assert "Neg" not in done.ops


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"joined": "a5, n5"}, ""),
        ({"first": "one"}, "is not the first neighbour of each pair"),
        ({"axes": "second"}, "not as neighbours"),
        (
            {"repeated": "{0}v = Neg({0}u) {0}c = Concat<axis: int = -1>({0}u, {0}v) {0} = Reshape({0}c, table)"},
            "does not",
        ),
    ],
)
def test_other_turns_of_neighbours_are_left(options, reason, tmp_path):
    done = apply(FuseRotary(), interleaved(**options), tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


@pytest.mark.parametrize(("second", "changed"), [("0.5, 2", 1), ("0.5, 3", 0)])
def test_constant_tables_are_read(second, changed, tmp_path):
    """A step of one position: its angles are known when the model is exported."""
    text = f"""g (float[B, 3, 1, 4] x) => (float[B, 3, 1, 4] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
         int64[1] four = {{4}}, float[1, 1, 1, 4] cos = {{0.5, 2, {second}}}, float[1, 1, 1, 4] sin = {{1, 2, 1, 2}}>
        {{ p = Mul(x, cos) a = Slice(x, zero, two, three, one) b = Slice(x, two, four, three, one) n = Neg(b)
          r = Concat<axis: int = -1>(n, a) q = Mul(r, sin) y = Add(p, q) }}"""
    assert apply(FuseRotary(), text, tmp_path).result.changed == changed
