import pytest
from graphs import apply, feeds_for, parse_model

from enginery.passes.graph.lower.split_projections import SplitProjections

WEIGHTS = (
    "float[2, 12] w = {1,2,3,4,5,6,7,8,9,10,11,12,0,1,0,2,0,3,0,4,0,5,0,6}, float[12] b = {3,2,1,0,1,2,3,2,1,0,1,2}"
)
CONSTANTS = (
    "int64[1] n0 = {0}, int64[1] n1 = {1}, int64[1] n2 = {2}, int64[1] n3 = {3}, int64 last = {-1}, int64 zero = {0}"
)
SEEN = "r = Reshape(h, into) t = Transpose<perm: ints = [2, 0, 3, 1, 4]>(r)"
SLICES = """qs = Slice(t, n0, n1, n0) q = Squeeze(qs, n0) ks = Slice(t, n1, n2, n0, n1) k = Squeeze(ks, n0)
    vs = Slice(t, n2, n3, n0) v = Squeeze(vs, n0)"""
HEADS = "float[N, 2, S, 2] q, float[N, 2, S, 2] k, float[N, 2, S, 2] v"


def projection(body, *, outputs=HEADS, made="m = MatMul(x, w) h = Add(m, b)", into="{0, 0, 3, 2, 2}"):
    """Queries, keys and values as one product h of x, and what `body` takes of it."""
    constants = f"{WEIGHTS}, {CONSTANTS}, int64[5] into = {into}"
    return f"g (float[N, S, 2] x) => ({outputs}) <{constants}> {{ {made} {body} }}"


@pytest.mark.parametrize(
    ("made", "each"),
    [("m = MatMul(x, w) h = Add(m, b)", ["MatMul", "Add"]), ("h = MatMul(x, w)", ["MatMul"])],
    ids=["with a bias", "without"],
)
def test_a_split_of_the_columns(made, each, tmp_path):
    outputs = "float[N, S, 4] q, float[N, S, 4] k, float[N, S, 4] v"
    text = projection("q, k, v = Split<axis: int = -1, num_outputs: int = 3>(h)", outputs=outputs, made=made)
    assert apply(SplitProjections(), text, tmp_path).ops == each * 3


def test_parts_of_different_width(tmp_path):
    text = projection("q, k = Split<axis: int = 2>(h, sizes)", outputs="float[N, S, 2] q, float[N, S, 10] k")
    text = text.replace("int64[1] n0", "int64[2] sizes = {2, 10}, int64[1] n0")
    assert apply(SplitProjections(), text, tmp_path).ops == ["MatMul", "Add"] * 2


GATHERS = "q = Gather(t, zero) k = Gather(t, last)"


@pytest.mark.parametrize(
    ("taken", "outputs", "parts"),
    [(SLICES, HEADS, 3), (GATHERS, "float[N, 2, S, 2] q, float[N, 2, S, 2] k", 2)],
    ids=["slices", "gathers"],
)
def test_parts_that_are_seen_as_heads(taken, outputs, parts, tmp_path):
    done = apply(SplitProjections(), projection(f"{SEEN} {taken}", outputs=outputs), tmp_path)
    assert done.ops == ["MatMul", "Add", "Reshape", "Transpose"] * parts


def test_parts_without_heads_are_nothing_but_columns(tmp_path):
    seen = "r = Reshape(h, into) t = Transpose<perm: ints = [2, 0, 1, 3]>(r)"
    text = projection(f"{seen} {GATHERS}", outputs="float[N, S, 4] q, float[N, S, 4] k", into="{0, 0, 3, 4}")
    done = apply(SplitProjections(), text.replace("int64[5] into", "int64[4] into"), tmp_path)
    assert done.ops == ["MatMul", "Add"] * 2


def test_parts_without_heads_keep_the_order_of_their_axes(tmp_path):
    seen = "r = Reshape(h, into) t = Transpose<perm: ints = [2, 0, 3, 1]>(r)"
    text = projection(f"{seen} {GATHERS}", outputs="float[N, 4, S] q, float[N, 4, S] k", into="{0, 0, 3, 4}")
    done = apply(SplitProjections(), text.replace("int64[5] into", "int64[4] into"), tmp_path)
    assert done.ops == ["MatMul", "Add", "Transpose"] * 2


def test_parts_behind_the_heads_are_not_columns_in_a_row(tmp_path):
    """GPT-NeoX keeps queries, keys and values of a head together."""
    seen = "r = Reshape(h, into) t = Transpose<perm: ints = [3, 0, 2, 1, 4]>(r)"
    done = apply(SplitProjections(), projection(f"{seen} {SLICES}", into="{0, 0, 2, 3, 2}"), tmp_path)
    assert done.result.changed == 0


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{SEEN} {SLICES} z = Neg(h)", HEADS + ", float[N, S, 12] z"),
        (f"{SEEN} {SLICES} z = Neg(t)", HEADS + ", float[A, B, C, D, E] z"),
        (f"{SEEN} {SLICES}", HEADS + ", float[N, S, 12] h"),
        (f"{SEEN} q = Slice(t, n0, n2, n0)", "float[A, B, C, D, E] q"),
        (f"{SEEN} q = Slice(t, n0, n1, n1)", "float[A, B, C, D, E] q"),
        ("q, k = Split<axis: int = 1, num_outputs: int = 2>(h)", "float[N, A, 12] q, float[N, C, 12] k"),
        ("q = Neg(h)", "float[N, S, 12] q"),
    ],
    ids=["read", "the view is read", "an output", "two parts", "another axis", "another split", "not taken apart"],
)
def test_products_that_stay_whole(body, outputs, tmp_path):
    text = projection(body, outputs=outputs)
    feeds = [feeds_for(parse_model(text), {"N": 2, "S": 4})]
    assert apply(SplitProjections(), text, tmp_path, feeds=feeds).result.changed == 0


def test_weights_that_are_computed_stay_whole(tmp_path):
    made = "a = Abs(w) m = MatMul(x, a) h = Add(m, b)"
    assert apply(SplitProjections(), projection(f"{SEEN} {SLICES}", made=made), tmp_path).result.changed == 0


def test_a_split_in_a_subgraph_stays_there(tmp_path):
    text = projection(
        """y = If(c) <
        then_branch = t () => (float[N, S, 6] q) { q, r = Split<axis: int = -1, num_outputs: int = 2>(h) },
        else_branch = e () => (float[N, S, 6] d) { d = Concat<axis: int = -1>(x, x, x) }>""",
        outputs="float[N, S, 6] y",
    ).replace("[N, S, 2] x", "[N, S, 2] x, bool c")
    done = apply(SplitProjections(), text, tmp_path)
    assert done.result.changed == 0
