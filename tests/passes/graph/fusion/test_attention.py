import re

import numpy as np
import pytest
from graphs import apply, attributes, ops, parse, reasons

from enginery.passes.graph.clean.merge_duplicate_nodes import MergeDuplicateNodes
from enginery.passes.graph.fusion.attention import FuseAttention

HEADS, SIZE = 3, 4


def attention(
    *,
    inputs="float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v",
    outputs="float[B, 3, S, 4] y",
    keys="kt = Transpose<perm: ints = [0, 1, 3, 2]>(k)",
    scores="m = MatMul(q, kt) s = Mul(m, half)",
    mask="l = Identity(s)",
    softmax="p = Softmax<axis: int = -1>(l)",
    context="y = MatMul(p, v)",
    constants="",
):
    """softmax(Q K^T / 2 + mask) V as text; a test replaces the part that it is about."""
    body = " ".join((keys, scores, mask.replace("l = Identity(s)", ""), softmax, context))
    if mask == "l = Identity(s)":
        body = body.replace("(l)", "(s)")
    return f"g ({inputs}) => ({outputs}) <float half = {{0.5}}, float two = {{2}}{constants}> {{ {body} }}"


def scale(done):
    return attributes(done.graph, "Attention")["scale"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, 0.5),
        ({"scores": "m = MatMul(q, kt) s = Div(m, two)"}, 0.5),
        ({"scores": "s = MatMul(q, kt)"}, 1.0),
        ({"scores": "a = Mul(half, q) s = MatMul(a, kt)"}, 0.5),
        ({"scores": "a = Mul(q, half) b = Mul(kt, half) s = MatMul(a, b)"}, 0.25),
        ({"keys": "b = Div(k, two) kt = Transpose<perm: ints = [0, 1, 3, 2]>(b)", "scores": "s = MatMul(q, kt)"}, 0.5),
        ({"scores": "a = Div(q, two) m = MatMul(a, kt) s = Mul(m, half)"}, 0.25),
    ],
)
def test_the_scale_is_gathered_from_wherever_it_stands(parts, expected, tmp_path):
    done = apply(FuseAttention(), attention(**parts), tmp_path)
    assert done.ops == ["Attention"]
    assert scale(done) == pytest.approx(expected)
    assert done.graph.opset == 23


@pytest.mark.parametrize("softmax", ["p = Softmax(l)", "p = Softmax<axis: int = 3>(l)"])
def test_the_softmax_runs_over_the_keys(softmax, tmp_path):
    assert apply(FuseAttention(), attention(softmax=softmax), tmp_path).ops == ["Attention"]


def test_keys_in_another_layout_get_a_transpose_of_their_own(tmp_path):
    text = attention(
        inputs="float[B, 3, S, 4] q, float[B, T, 3, 4] k, float[B, 3, T, 4] v",
        keys="kt = Transpose<perm: ints = [0, 2, 3, 1]>(k)",
    )
    done = apply(FuseAttention(), text, tmp_path)
    assert done.ops == ["Transpose", "Attention"]
    assert attributes(done.graph, "Transpose") == {"perm": [0, 2, 1, 3]}


WHERE = "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v, bool[B, 1, S, T] b"
MASKED = "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v, float[B, 1, S, T] mask"


def test_an_additive_mask_of_unknown_values_is_raised_to_what_kernels_agree_on(tmp_path):
    done = apply(FuseAttention(), attention(inputs=MASKED, mask="l = Add(mask, s)"), tmp_path)
    assert done.ops == ["Max", "Attention"]


@pytest.mark.parametrize("made", ["Sigmoid(mask)", "Tanh(mask)", "Gather<axis: int = 0>(table, i)", "Add(one, one)"])
def test_an_additive_mask_whose_values_are_bounded_is_handed_over(made, tmp_path):
    text = attention(
        inputs=MASKED.replace("mask", "mask, int64[B, 1, S, T] i"),
        scores=f"a = {made} m = MatMul(q, kt) s = Mul(m, half)",
        mask="l = Add(s, a)",
        constants=", float[2] table = {-3, 4}, float[1, 1, 1, 1] one = {1}",
    )
    done = apply(FuseAttention(), text, tmp_path)
    assert "Max" not in done.ops
    assert done.ops[-1] == "Attention"


@pytest.mark.parametrize("hidden", ["-inf", "-3.4028234e38"])
def test_rows_that_are_hidden_entirely_keep_their_value(hidden, tmp_path):
    text = attention(
        inputs=WHERE,
        mask="w = Where(b, zero, floor) l = Add(s, w)",
        constants=f", float zero = {{0}}, float floor = {{{hidden}}}",
    )
    rng = np.random.default_rng(0)
    shown = np.array([[0, 0, 0], [0, 1, 1]], bool)[None, None]
    if hidden == "-inf":
        shown[..., 0, 0] = True  # a row of -inf is NaN before, and need not be after
    arrays = [rng.standard_normal((1, HEADS, n, SIZE)).astype(np.float32) for n in (2, 3, 3)]
    feeds = [dict(zip("qkvb", [*arrays, shown], strict=True))]
    assert apply(FuseAttention(), text, tmp_path, feeds=feeds).ops == ["Where", "Attention"]


def test_a_mask_that_broadcasts_over_queries_is_expanded_for_the_kernel(tmp_path):
    text = attention(
        inputs="float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v, float[B, 1, 1, T] mask",
        mask="l = Add(s, mask)",
    )
    done = apply(FuseAttention(), text, tmp_path)
    assert done.ops[-2:] == ["Expand", "Attention"]


@pytest.mark.parametrize("mask", ["l = Where(b, s, floor)", "l = Where(b, floor, s)"])
@pytest.mark.parametrize("floor", ["-3.4028234e38", "-1e9"])
def test_a_boolean_mask_becomes_an_additive_one(mask, floor, tmp_path):
    text = attention(inputs=WHERE, mask=mask, constants=f", float floor = {{{floor}}}")
    assert apply(FuseAttention(), text, tmp_path).ops == ["Where", "Attention"]


def test_a_floor_that_does_not_hide_is_left(tmp_path):
    text = attention(inputs=WHERE, mask="l = Where(b, s, floor)", constants=", float floor = {-10000}")
    done = apply(FuseAttention(), text, tmp_path)
    assert "become -10000, which does not hide them" in done.reasons
    assert done.result.changed == 0


GUARD = "p0 = Softmax<axis: int = -1>(l) n = IsNaN(p0) p = Where(n, zero, p0)"


def test_the_guard_goes_where_the_mask_is_finite(tmp_path):
    text = attention(
        inputs=WHERE,
        mask="w = Where(b, zero, floor) l = Add(s, w)",
        softmax=GUARD,
        constants=", float zero = {0}, float floor = {-3.4028234e38}",
    )
    assert apply(FuseAttention(), text, tmp_path).ops == ["Where", "Attention"]


def test_the_guard_goes_where_there_is_no_mask(tmp_path):
    text = attention(softmax=GUARD.replace("(l)", "(s)"), constants=", float zero = {0}")
    assert apply(FuseAttention(), text, tmp_path).ops == ["Attention"]


def test_rows_that_one_mask_hides_entirely_stay_zero(tmp_path):
    text = attention(
        inputs=WHERE,
        scores="a = Where(b, zero, floor) m = MatMul(q, kt) s = Mul(m, half)",
        mask="l = Add(s, a)",
        softmax=GUARD,
        constants=", float zero = {0}, float floor = {-inf}",
    )
    rng = np.random.default_rng(0)
    shown = np.array([[0, 0, 0], [0, 1, 1]], bool)[None, None]
    arrays = [rng.standard_normal((1, HEADS, n, SIZE)).astype(np.float32) for n in (2, 3, 3)]
    feeds = [dict(zip("qkvb", [*arrays, shown], strict=True))]
    done = apply(FuseAttention(), text, tmp_path, feeds=feeds)
    assert done.ops[-1] == "Where"
    assert "Softmax" not in done.ops


def test_the_guard_is_kept_where_another_layer_may_hide_rows_entirely(tmp_path):
    constants = ", float zero = {0}, float floor = {-inf}"
    text = attention(inputs=WHERE, mask="l = Where(b, s, floor)", softmax=GUARD, constants=constants)
    done = apply(FuseAttention(), text, tmp_path)
    assert done.result.changed == 0
    assert "would give NaN" in done.reasons


ONE_QUERY = "float[B, 3, 1, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v"
FLOORED = {"mask": "l = Where(b, s, floor)", "constants": ", float floor = {-inf}"}


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ({"inputs": f"{ONE_QUERY}, float[B, 1, S, T] mask", "mask": "l = Add(s, mask)"}, "B, 3, 1, T"),
        ({"inputs": f"{ONE_QUERY}, bool[B, 1, S, T] b", **FLOORED}, "B, 3, 1, T"),
        ({"inputs": f"{ONE_QUERY.replace('B', '1')}, bool[B, 1, 1, T] b", **FLOORED}, "1, 3, 1, T"),
        (
            {"inputs": f"{WHERE.replace('bool[B', 'bool[A, B')}", "outputs": "float[A, B, 3, S, 4] y", **FLOORED},
            "B, 3, S, T",
        ),
    ],
)
def test_a_mask_that_makes_more_of_the_scores_is_left(parts, shape, tmp_path):
    done = apply(FuseAttention(), attention(**parts), tmp_path)
    assert done.result.changed == 0
    assert f"makes more of scores of shape ({shape})" in done.reasons.replace("'", "")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"softmax": "p = Softmax<axis: int = 2>(l)"}, "axis 2, not over the keys"),
        (
            {
                "inputs": "float[A, B, 3, S, 4] q, float[A, B, 3, T, 4] k, float[A, B, 3, T, 4] v",
                "outputs": "float[A, B, 3, S, 4] y",
                "keys": "kt = Transpose<perm: ints = [0, 1, 2, 4, 3]>(k)",
            },
            "rank 5",
        ),
        ({"inputs": "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[T, 4] v"}, "values 'v' have rank 2"),
        ({"inputs": "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[3, T, 4] v"}, "ranks 4, 4 and 3"),
        ({"inputs": "float[B, 3, S, 4] q, float[1, 3, T, 4] k, float[1, 3, T, 4] v"}, "batches .* are B, 1 and 1"),
        ({"inputs": "float[B, 3, S, 4] q, float[B, 1, T, 4] k, float[B, 3, T, 4] v"}, "heads .* are 3, 1 and 3"),
        ({"inputs": "float[B, H, S, 4] q, float[B, H, T, 4] k, float[B, H, T, 4] v"}, "heads .* are H, H and H"),
        ({"scores": "m = MatMul(q, kt) s = Mul(m, minus)", "constants": ", float minus = {-0.5}"}, "scale is -0.5"),
        ({"outputs": "float[B, 3, S, 4] y, float[B, 3, S, T] p"}, "'p' is a graph output"),
        (
            {"outputs": "float[B, 3, S, 4] y, float[B, 3, S, T] z", "context": "y = MatMul(p, v) z = Neg(s)"},
            "'s' is also read by 'Neg -> z'",
        ),
    ],
)
def test_what_attention_cannot_express_is_left_with_a_reason(parts, reason, tmp_path):
    done = apply(FuseAttention(), attention(**parts), tmp_path)
    assert done.result.changed == 0
    assert re.search(reason, done.reasons), done.reasons


def test_scores_that_are_divided_by_zero_are_left():
    text = attention(scores="m = MatMul(q, kt) s = Div(m, none)", constants=", float none = {0}")
    assert "scale is nan" in reasons(FuseAttention().apply(parse(text)))


def test_fewer_heads_than_asked_are_left(tmp_path):
    assert "fewer than min_heads=4" in apply(FuseAttention(min_heads=4), attention(), tmp_path).reasons


def test_a_bias_of_relative_positions_is_added_to_the_mask(tmp_path):
    text = attention(
        inputs=WHERE + ", float[1, 3, S, T] r",
        mask="w = Where(b, zero, floor) t = Tanh(r) l0 = Add(s, t) l = Add(l0, w)",
        constants=", float zero = {0}, float floor = {-3.4028234e38}",
    )
    done = apply(FuseAttention(), text, tmp_path)
    assert done.ops[-1] == "Attention"
    assert "Softmax" not in done.ops


FLOOR = ", float zero = {0}, float floor = {-3.4028234e38}"


@pytest.mark.parametrize(
    "mask",
    [
        "h = Where(b, s, floor) l = Add(h, a)",
        "h = Add(s, a) l = Where(b, h, floor)",
        "h = Add(s, r) i = Where(b, h, floor) l = Add(a, i)",
    ],
    ids=["causal, then padding", "bias, then mask", "bias, mask, padding"],
)
def test_layers_become_one_mask_in_their_order(mask, tmp_path):
    """Rows are hidden by one layer, by the other, and by both; what a row then weighs depends on the order."""
    text = attention(
        inputs=WHERE + ", bool[B, 1, 1, T] g, float[1, 3, S, T] r",
        scores="a = Where(g, zero, floor) m = MatMul(q, kt) s = Mul(m, half)",
        mask=mask,
        constants=FLOOR,
    )
    rng = np.random.default_rng(0)
    arrays = dict(
        zip("qkv", [rng.standard_normal((2, HEADS, n, SIZE)).astype(np.float32) for n in (4, 4, 4)], strict=True)
    )
    causal = np.broadcast_to(np.tril(np.ones((4, 4), bool)), (2, 1, 4, 4)).copy()
    padding = np.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)[:, None, None]  # the second row is padded on the left
    feeds = [arrays | {"b": causal, "g": padding, "r": rng.standard_normal((1, HEADS, 4, 4)).astype(np.float32)}]
    done = apply(FuseAttention(), text, tmp_path, feeds=feeds)
    assert done.ops[-1] == "Attention"
    assert "Softmax" not in done.ops


def test_more_layers_than_three_are_left(tmp_path):
    mask = "l1 = Where(b, s, floor) l2 = Where(b, l1, floor) l3 = Where(b, l2, floor) l = Where(b, l3, floor)"
    done = apply(FuseAttention(), attention(inputs=WHERE, mask=mask, constants=FLOOR), tmp_path)
    assert "no known form of attention" in done.reasons


def test_one_head_of_keys_serves_all_queries(tmp_path):
    text = attention(inputs="float[B, 3, S, 4] q, float[B, 1, T, 4] k, float[B, 1, T, 4] v")
    assert apply(FuseAttention(), text, tmp_path).ops == ["Attention"]


RANK_3 = {
    "inputs": "float[B, S, 4] q, float[B, T, 4] k, float[B, T, 4] v",
    "outputs": "float[B, S, 4] y",
    "keys": "kt = Transpose<perm: ints = [0, 2, 1]>(k)",
}


def test_attention_without_heads_is_attention_of_one_head(tmp_path):
    done = apply(FuseAttention(), attention(**RANK_3), tmp_path)
    assert done.ops == ["Unsqueeze", "Unsqueeze", "Unsqueeze", "Attention", "Squeeze"]


@pytest.mark.parametrize("shape", ["B, S, T", "1, S, T", "S, T", "B, 1, T"])
def test_masks_of_attention_without_heads(shape, tmp_path):
    text = attention(**RANK_3 | {"inputs": f"{RANK_3['inputs']}, float[{shape}] r"}, mask="t = Tanh(r) l = Add(s, t)")
    assert "Softmax" not in apply(FuseAttention(), text, tmp_path).ops


def test_a_mask_over_heads_alone(tmp_path):
    text = attention(inputs=WHERE + ", float[3, S, T] r", mask="t = Tanh(r) l = Add(s, t)")
    assert apply(FuseAttention(), text, tmp_path).ops == ["Tanh", "Unsqueeze", "Attention"]


def test_a_mask_of_another_type_or_rank_is_left(tmp_path):
    text = attention(inputs=WHERE + ", float[T] r", mask="l = Add(s, r)")
    assert "the mask 'r' has rank 1" in apply(FuseAttention(), text, tmp_path).reasons


def test_a_softmax_of_no_known_form_is_named(tmp_path):
    text = attention(mask="l = Exp(s)")
    done = apply(FuseAttention(), text, tmp_path)
    assert done.result.changed == 0
    assert "no known form of attention" in done.reasons


def test_a_guarded_softmax_of_no_known_form_is_named(tmp_path):
    text = attention(mask="l = Exp(s)", softmax=GUARD, constants=", float zero = {0}")
    assert "no known form of attention" in apply(FuseAttention(), text, tmp_path).reasons


def test_keys_that_are_the_queries_transposed_elsewhere_stay_for_others(tmp_path):
    text = attention(outputs="float[B, 3, S, 4] y, float[B, 3, 4, T] z", context="y = MatMul(p, v) z = Neg(kt)")
    assert sorted(apply(FuseAttention(), text, tmp_path).ops) == ["Attention", "Neg", "Transpose"]


def test_layers_share_the_additive_mask(tmp_path):
    text = attention(
        inputs=WHERE,
        mask="l = Where(b, s, floor)",
        context="h = MatMul(p, v) m2 = MatMul(h, kt) l2 = Where(b, m2, floor) p2 = Softmax(l2) y = MatMul(p2, v)",
        constants=", float floor = {-3.4028234e38}",
    )
    rng = np.random.default_rng(0)
    feeds = [
        {name: rng.standard_normal((2, HEADS, n, SIZE)).astype(np.float32) for name in "qkv"}
        | {"b": np.broadcast_to(np.tril(np.ones((n, n), bool)), (2, 1, n, n)).copy()}
        for n in (4, 5)
    ]
    graph = apply(FuseAttention(), text, tmp_path, feeds=feeds).graph
    MergeDuplicateNodes().apply(graph)
    assert ops(graph).count("Attention") == 2
    assert ops(graph).count("Where") == 1


def test_half_precision_exports_with_casts_around_the_softmax(tmp_path):
    text = attention(
        inputs="float16[B, 3, S, 4] q, float16[B, 3, T, 4] k, float16[B, 3, T, 4] v",
        outputs="float16[B, 3, S, 4] y",
        scores="s = MatMul(q, kt)",
        softmax="c = Cast<to: int = 1>(s) p0 = Softmax<axis: int = -1>(c) p = Cast<to: int = 10>(p0)",
    )
    done = apply(FuseAttention(), text, tmp_path, tolerance=2e-3)
    assert done.ops == ["Attention"]


def test_every_size_of_the_dynamic_dimensions(tmp_path):
    rng = np.random.default_rng(1)
    feeds = [
        {
            "q": rng.standard_normal((b, HEADS, s, SIZE)).astype(np.float32),
            "k": rng.standard_normal((b, HEADS, t, SIZE)).astype(np.float32),
            "v": rng.standard_normal((b, HEADS, t, SIZE)).astype(np.float32),
        }
        for b, s, t in ((1, 1, 1), (1, 7, 3), (4, 2, 9), (2, 33, 33))
    ]
    assert apply(FuseAttention(), attention(), tmp_path, feeds=feeds).ops == ["Attention"]
