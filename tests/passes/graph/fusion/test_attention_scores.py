"""What may stand between the product of queries and keys, and the mask: caps, factors of heads, masks of windows."""

import re

import pytest
from graphs import apply, attributes, feeds_for, ops, parse_model

from enginery.passes.graph.fusion.attention import FuseAttention

INPUTS = "float[B, 3, S, 4] q, float[B, 3, T, 4] k, float[B, 3, T, 4] v"


def attention(scores, *, inputs=INPUTS, outputs="float[B, 3, S, 4] y", constants="float half = {0.5}"):
    """softmax(l) V, where `scores` makes l of the product m."""
    turned = "kt = Transpose<perm: ints = [0, 1, 3, 2]>(k) m = MatMul(q, kt)"
    return f"g ({inputs}) => ({outputs}) <{constants}> {{ {turned} {scores} p = Softmax(l) y = MatMul(p, v) }}"


CAP = "float half = {0.5}, float cap = {2}, float other = {4}, float none = {-2}"


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ("s = Mul(m, half) d = Div(s, cap) t = Tanh(d) l = Mul(t, cap)", 0.5),
        ("d = Mul(m, half) t = Tanh(d) l = Mul(cap, t)", 1.0),
        ("d = Div(m, other) t = Tanh(d) l = Mul(t, cap)", 0.5),
        ("t = Tanh(m) l = Mul(t, cap)", 2.0),
    ],
    ids=["scaled before", "by a factor", "by another number", "by none"],
)
def test_capped_scores(scores, scale, tmp_path):
    done = apply(FuseAttention(), attention(scores, constants=CAP), tmp_path)
    assert done.ops == ["Attention"]
    attrs = attributes(done.graph, "Attention")
    assert (attrs["softcap"], attrs["scale"]) == (2.0, pytest.approx(scale))


def test_scores_are_capped_before_they_are_hidden(tmp_path):
    scores = "d = Div(m, cap) t = Tanh(d) c = Mul(t, cap) l = Where(b, c, floor)"
    constants = CAP + ", float floor = {-3.4028234e38}"
    done = apply(
        FuseAttention(), attention(scores, inputs=INPUTS + ", bool[B, 1, S, T] b", constants=constants), tmp_path
    )
    assert done.ops == ["Where", "Attention"]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ("t = Tanh(m) l = Mul(t, none)", "capped at -2.0"),
        ("t = Tanh(m) h = Add(t, half) l = Mul(h, cap)", "no known form of attention"),
    ],
)
def test_caps_that_are_left(scores, reason, tmp_path):
    done = apply(FuseAttention(), attention(scores, constants=CAP), tmp_path)
    assert done.result.changed == 0
    assert re.search(reason, done.reasons), done.reasons


HEADS = "float[3, 1, 1] heads = {0.5, -1, 2}, float[3, 1] rows = {1, 2, 3}"


def test_a_factor_for_each_head_multiplies_the_queries(tmp_path):
    done = apply(FuseAttention(), attention("l = Mul(m, heads)", constants=HEADS), tmp_path)
    assert done.ops == ["Mul", "Attention"]
    assert attributes(done.graph, "Attention")["scale"] == 1.0


def test_other_factors_are_left(tmp_path):
    inputs = INPUTS.replace("S", "3")
    text = attention("l = Mul(m, rows)", inputs=inputs, outputs="float[B, 3, 3, 4] y", constants=HEADS)
    done = apply(FuseAttention(), text, tmp_path)
    assert done.result.changed == 0
    assert "'rows' of shape [3, 1], not by one factor for each head" in done.reasons


@pytest.mark.parametrize("scaled", ["", "kt = Mul(k, half)"])
def test_keys_that_are_made_with_sizes_before_lengths(scaled, tmp_path):
    product = f"{scaled} m = MatMul(q, {'kt' if scaled else 'k'})"
    text = f"""g (float[B, 3, S, 4] q, float[B, 3, 4, T] k, float[B, 3, T, 4] v) => (float[B, 3, S, 4] y)
    <float half = {{0.5}}> {{ {product} p = Softmax(m) y = MatMul(p, v) }}"""
    assert apply(FuseAttention(), text, tmp_path).ops == ["Transpose", "Attention"]


def windows(*, inside="{-1, 2, 3, 2, 2}", mask="float[1, 2, 1, 2, 2] w"):
    """Two windows of an image, each with its mask: the batch is images times windows."""
    inputs = "float[M, 3, 2, 4] q, float[M, 3, 2, 4] k, float[M, 3, 2, 4] v, float[1, 3, 2, 2] bias, " + mask
    scores = "b = Add(m, bias) i = Reshape(b, inside) a = Add(i, w) l = Reshape(a, back)"
    constants = f"int64[5] inside = {inside}, int64[4] back = {{-1, 3, 2, 2}}"
    return attention(scores, inputs=inputs, outputs="float[M, 3, 2, 4] y", constants=constants)


def images(text):
    """Feeds for one image of two windows, and for three."""
    return [feeds_for(parse_model(text), {"M": 2 * count}) for count in (1, 3)]


@pytest.mark.parametrize("heads", [1, 3])
def test_masks_of_windows(heads, tmp_path):
    text = windows(mask=f"float[1, 2, {heads}, 2, 2] w")
    done = apply(FuseAttention(), text, tmp_path, feeds=images(text))
    assert done.ops[-1] == "Attention"
    assert "Softmax" not in done.ops


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"mask": "float[1, 1, 1, 2, 2] w"}, r"mask of windows 'w' has shape \(1, 1, 1, 2, 2\)"),
        ({"mask": "float[1, 2, 1, 1, 2] w"}, r"mask of windows 'w' has shape \(1, 2, 1, 1, 2\)"),
        ({"mask": "float[3, 1, 1] w"}, "mask of windows 'w' has shape"),
        ({"inside": "{-1, 2, 3, 1, 4}", "mask": "float[1, 2, 1, 1, 4] w"}, "no windows of them"),
    ],
)
def test_windows_that_are_left(parts, reason, tmp_path):
    text = windows(**parts)
    done = apply(FuseAttention(), text, tmp_path, feeds=images(text))
    assert done.result.changed == 0
    assert re.search(reason, done.reasons), done.reasons


def test_attention_in_the_body_of_an_if(tmp_path):
    text = """g (float[B, 3, S, 4] q, bool c) => (float[B, 3, S, 4] y)
    { y = If(c) <
       then_branch = t () => (float[B, 3, S, 4] a) { k = Neg(q) kt = Transpose<perm: ints = [0, 1, 3, 2]>(k)
         m = MatMul(q, kt) p = Softmax(m) a = MatMul(p, k) },
       else_branch = e () => (float[B, 3, S, 4] d) { d = Identity(q) }> }"""
    done = apply(FuseAttention(), text, tmp_path)
    (node,) = done.graph.nodes
    assert ops(node.attrs["then_branch"]) == ["Neg", "Attention"]
