"""Norms of sums in ONNX Runtime's fused forms: of residuals and of embeddings."""

import pytest
from graphs import apply

from enginery.passes.graph.lower.embedding_norm import LowerToEmbeddingNorm
from enginery.passes.graph.lower.residual_norm import LowerToResidualNorm

HEAD = """g (float[N, S, 4] x, float[N, S, 4] r, float[4] narrow) => (float[N, S, 4] y{more})
    <float[4] w = {{1, 2, -3, 4}}, float[4] b = {{0.5, 0, 1, 2}}>"""
LAYER = "s = Add(x, r) y = LayerNormalization<axis: int = -1>(s, w, b)"


def text(body=LAYER, more=""):
    return f"{HEAD.format(more=more)} {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "op"),
    [
        (LAYER, "SkipLayerNormalization"),
        (LAYER.replace(", b)", ")"), "SkipLayerNormalization"),
        ("s = Add(x, r) y = RMSNormalization<axis: int = -1>(s, w)", "SkipSimplifiedLayerNormalization"),
    ],
)
def test_a_sum_and_its_norm(body, op, tmp_path):
    assert apply(LowerToResidualNorm(), text(body), tmp_path, opset=23, ir_version=11).ops == [op]


@pytest.mark.parametrize(
    ("body", "more", "ops"),
    [
        (f"{LAYER} z = Neg(s)", ", float[N, S, 4] z", ["SkipLayerNormalization", "Neg"]),
        (LAYER, ", float[N, S, 4] s", ["SkipLayerNormalization"]),
    ],
)
def test_the_sum_goes_on_as_the_next_residual(body, more, ops, tmp_path):
    done = apply(LowerToResidualNorm(), text(body, more), tmp_path)
    assert done.ops == ops
    assert done.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (LAYER.replace("Add(x, r)", "Add(x, narrow)"), r"its terms have the shapes"),
        (LAYER.replace("axis: int = -1", "axis: int = 1").replace("w, b", "ww, bb"), "more than the last dimension"),
    ],
)
def test_what_the_kernel_cannot_express_is_left(body, reason, tmp_path):
    given = text(body)
    if "ww" in body:
        given = given.replace("S, 4]", "2, 4]").replace(
            "<float[4] w", "<float[2, 4] ww = {1,2,3,4,5,6,7,8}, float[4] w"
        )
        given = given.replace("float[4] b", "float[2, 4] bb = {1,2,3,4,5,6,7,8}, float[4] b")
    done = apply(LowerToResidualNorm(), given, tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


def test_it_is_named_where_one_kernel_is_slower(tmp_path):
    done = apply(LowerToResidualNorm(write=False), text(), tmp_path)
    assert done.ops == ["Add", "LayerNormalization"]
    assert "residual sum and norm recognized" in done.reasons


EMBED = """g (int64[N, S] ids, int64[N, S] kinds, int64[1, S] places) => (float[N, S, 4] y)
    <float[2, 4] words = {{1, 2, 3, 4, 5, 6, 8, 9}}, float[2, 4] segments = {{3, 1, 4, 1, 5, 9, 2, 6}},
     float[2, 4] positions = {{2, 7, 1, 8, 2, 8, 1, 8}}, float[4] w = {{1, 2, -3, 4}}, float[4] b = {{0.5, 0, 1, 2}}>
    {{ a = Gather(words, ids) c = Gather(positions, {places}) {sum}
      y = LayerNormalization<axis: int = -1>(s, w, b) }}"""
THREE = "k = Gather(segments, kinds) t = Add(a, k) s = Add(t, c)"


@pytest.mark.parametrize("total", [THREE, "k = Gather(segments, kinds) t = Add(c, a) s = Add(k, t)", "s = Add(a, c)"])
def test_embeddings_and_their_norm(total, tmp_path):
    done = apply(LowerToEmbeddingNorm(), EMBED.format(sum=total, places="places"), tmp_path)
    assert done.ops[-1] == "EmbedLayerNormalization"
    assert set(done.ops) == {"Cast", "EmbedLayerNormalization"}


def test_ids_of_another_rank_are_left(tmp_path):
    given = EMBED.format(sum=THREE, places="places").replace("int64[1, S] places", "int64[S] places")
    assert "(batch, length) is needed" in apply(LowerToEmbeddingNorm(), given, tmp_path).reasons


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("float[4] w", "float[1, 1, 4] w", "the scale of its norm has the shape (1, 1, 4); (4,) is needed"),
        ("float[4] b = {0.5, 0, 1, 2}", "float[1] b = {0.5}", "the bias of its norm has the shape (1,)"),
        (
            "float[2, 4] positions = {2, 7, 1, 8, 2, 8, 1, 8}",
            "float[2, 1] positions = {2, 7}",
            "(2, 4), (2, 4), (2, 1)",
        ),
    ],
)
def test_tables_and_weights_that_broadcast_are_left(old, new, reason, tmp_path):
    given = EMBED.format(sum=THREE, places="places").replace(old, new)
    done = apply(LowerToEmbeddingNorm(), given, tmp_path)
    assert done.result.changed == 0
    assert reason in done.reasons


def test_embeddings_are_named_where_nothing_is_gained(tmp_path):
    done = apply(LowerToEmbeddingNorm(write=False), EMBED.format(sum=THREE, places="places"), tmp_path)
    assert done.result.changed == 0
    assert "sum of embeddings and norm recognized" in done.reasons
