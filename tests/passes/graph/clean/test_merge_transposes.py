import pytest
from graphs import apply, attributes

from enginery.passes.graph.clean.merge_transposes import MergeTransposes


def test_two_transposes_become_one(tmp_path):
    text = """g (float[N, 2, 3] x) => (float[3, N, 2] y)
    { a = Transpose<perm: ints = [1, 0, 2]>(x) y = Transpose<perm: ints = [2, 1, 0]>(a) }"""
    done = apply(MergeTransposes(), text, tmp_path)
    assert attributes(done.graph, "Transpose") == {"perm": [2, 0, 1]}


def test_three_transposes_become_one(tmp_path):
    text = """g (float[N, 2, 3] x) => (float[N, 3, 2] y) { a = Transpose<perm: ints = [1, 0, 2]>(x)
    b = Transpose<perm: ints = [2, 1, 0]>(a) y = Transpose<perm: ints = [1, 0, 2]>(b) }"""
    assert apply(MergeTransposes(), text, tmp_path).ops == ["Transpose"]


def test_a_transpose_that_others_read_stays_for_them(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y, float[2, N] z)
    { a = Transpose<perm: ints = [1, 0]>(x) y = Transpose<perm: ints = [1, 0]>(a) z = Neg(a) }"""
    assert sorted(apply(MergeTransposes(), text, tmp_path).ops) == ["Neg", "Transpose", "Transpose"]


BATCHED = """g (float[N, 3, S, 4] x) => (float[A, B, C, D] y)
    <int64[1] three = {{3}}, int64[1] four = {{4}}, int64[1] rest = {{-1}}>
    {{ n = Shape<start: int = 0, end: int = 1>(x) s = Shape<start: int = 2, end: int = 3>(x)
      into = Concat<axis: int = 0>(rest, s, four) flat = Reshape(x, into) t = Transpose<perm: ints = [0, 2, 1]>(flat)
      back = Concat<axis: int = 0>({back}) y = Reshape(t, back) }}"""


def test_a_batched_transpose_through_reshapes_is_one_transpose(tmp_path):
    done = apply(MergeTransposes(), BATCHED.format(back="n, three, four, s"), tmp_path)
    assert done.ops == ["Transpose"]
    assert attributes(done.graph, "Transpose") == {"perm": [0, 1, 3, 2]}


def test_a_target_that_restores_something_else_is_kept(tmp_path):
    assert apply(MergeTransposes(), BATCHED.format(back="three, n, four, s"), tmp_path).result.changed == 0


CHOICE = """g (float[N, 3, S, 2] x, bool[N, 1, S, 1] c) => ({outputs})
    <float zero = {{0}}, float[1, 1, 1, 2] row = {{1, 2}}>
    {{ a = Transpose<perm: ints = [0, 2, 1, 3]>(x) d = Transpose<perm: ints = [0, 2, 1, 3]>(c) w = Where(d, {number}, a)
      y = Transpose<perm: ints = [0, 2, 1, 3]>(w) {more} }}"""


def choice(*, number="zero", outputs="float[N, 3, S, 2] y", more=""):
    return CHOICE.format(number=number, outputs=outputs, more=more)


def test_a_choice_between_transposes_that_undo_each_other(tmp_path):
    assert apply(MergeTransposes(), choice(), tmp_path).ops == ["Where"]


@pytest.mark.parametrize(
    "options", [{"number": "row"}, {"outputs": "float[N, 3, S, 2] y, float[N, S, 3, 2] z", "more": "z = Neg(w)"}]
)
def test_a_choice_that_is_left(options, tmp_path):
    done = apply(MergeTransposes(), choice(**options), tmp_path)
    assert done.ops.count("Transpose") == 3


def test_the_keys_of_one_head_for_all(tmp_path):
    """The target copies the batch, which the fold of one head left as it was."""
    text = """g (float[N, 1, S, 4] x) => (float[N, 1, 4, S] y)
        <int64[1] rest = {-1}, int64[1] four = {4}, int64[4] back = {0, 1, 4, -1}>
        { s = Shape<start: int = 2, end: int = 3>(x) into = Concat<axis: int = 0>(rest, s, four) f = Reshape(x, into)
          t = Transpose<perm: ints = [0, 2, 1]>(f) y = Reshape(t, back) }"""
    done = apply(MergeTransposes(), text, tmp_path)
    assert [attributes(done.graph, "Transpose")["perm"], "Reshape" in done.ops] == [[0, 1, 3, 2], False]


AROUND = """g (float[N, 3, 2] x) => (float[A, B, C] y) <int64[1] at = {{{into}}}, int64[1] out = {{{out}}}>
    {{ a = Unsqueeze(x, at) b = Transpose<perm: ints = {perm}>(a) y = Squeeze(b, out) }}"""


@pytest.mark.parametrize(
    ("into", "perm", "out", "order"),
    [("0", "[2, 1, 0, 3]", "-2", [1, 0, 2]), ("-1", "[3, 0, 2, 1]", "0", [0, 2, 1]), ("1", "[0, 2, 1, 3]", "2", None)],
)
def test_a_dimension_that_comes_and_goes_around_a_transpose(into, perm, out, order, tmp_path):
    text = AROUND.format(into=into, perm=perm, out=out)
    if order is None:  # nothing is left to do, and the output needs a node that makes it
        text = text.replace("y = Squeeze(b, out)", "s = Squeeze(b, out) y = Neg(s)")
        assert apply(MergeTransposes(), text, tmp_path).ops == ["Neg"]
    else:
        assert attributes(apply(MergeTransposes(), text, tmp_path).graph, "Transpose") == {"perm": order}


def test_another_dimension_that_goes_is_left(tmp_path):
    text = AROUND.format(into="0", perm="[1, 2, 0, 3]", out="0").replace("N", "1")
    assert apply(MergeTransposes(), text, tmp_path).result.changed == 0
