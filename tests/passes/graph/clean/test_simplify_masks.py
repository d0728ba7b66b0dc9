import numpy as np
from graphs import apply

from enginery.passes.graph.clean.simplify_masks import SimplifyMasks


def tower(*, limits="n, s", second="j1", data="m"):
    rows, columns = limits.split(", ")
    return f"""g (bool[N, S] m) => (bool[N, 1, 1, S] y)
      <int64 zero = {{0}}, int64 one = {{1}}, int64[3] tail = {{1, 2, 3}},
      int64[3] head = {{0, 1, 2}}, int64[1] last = {{-1}}, int64[1] ax = {{0}}>
    {{ n0 = Shape<start: int = 0, end: int = 1>(m) s0 = Shape<start: int = 1, end: int = 2>(m) n = Squeeze(n0, ax)
      s = Squeeze(s0, ax) i = Range(zero, {rows}, one) j = Range(zero, {columns}, one) i1 = Unsqueeze(i, tail)
      j1 = Unsqueeze(j, head) b = Max(i1, j1) t = Shape(b) i2 = Expand(i1, t) j2 = Expand({second}, t)
      i3 = Unsqueeze(i2, last) j3 = Unsqueeze(j2, last) k = Concat<axis: int = -1>(i3, j3) y = GatherND(m, k) }}"""


FEEDS = [{"m": np.random.default_rng(0).integers(0, 2, shape).astype(bool)} for shape in ((1, 1), (2, 2), (3, 3))]


def test_a_gather_of_everything_is_an_unsqueeze(tmp_path):
    feeds = [{"m": np.random.default_rng(0).integers(0, 2, shape).astype(bool)} for shape in ((1, 5), (3, 2), (4, 4))]
    done = apply(SimplifyMasks(), tower(), tmp_path, feeds=feeds)
    assert "GatherND" not in done.ops
    (node,) = (node for node in done.graph.nodes if node.outputs[0].name == "y")
    assert node.inputs[1].values.tolist() == [1, 2]


def test_indices_that_count_something_else_are_left(tmp_path):
    done = apply(SimplifyMasks(), tower(limits="n, n"), tmp_path, feeds=FEEDS)
    assert done.result.changed == 0
    assert "not shown to enumerate" in done.reasons


def test_neutral_logic_goes(tmp_path):
    text = """g (bool[N, S] m) => (bool[N, S] y) <bool yes = {1}, bool[1, 1] no = {0}>
    { a = Not(m) b = And(yes, a) c = Or(b, no) y = Not(c) }"""
    assert apply(SimplifyMasks(), text, tmp_path).ops == ["Not", "Not"]


def test_logic_that_decides_stays(tmp_path):
    text = """g (bool[N, S] m) => (bool[N, S] y) <bool yes = {1}, bool no = {0}>
    { a = Not(m) b = Or(yes, a) c = And(b, no) y = Not(c) }"""
    assert apply(SimplifyMasks(), text, tmp_path).result.changed == 0
