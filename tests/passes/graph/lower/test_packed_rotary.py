import numpy as np
import pytest
from graphs import apply, attributes

from enginery.passes.graph.clean.merge_transposes import MergeTransposes
from enginery.passes.graph.lower.packed_rotary import PackRotary

SPLIT = """g (float[B, S, 6] x, float[B, S, 1] cos, float[B, S, 1] sin) => (float[B, 3, S, 2] y)
    <int64[4] heads = {0, 0, 3, 2}>
    { r = Reshape(x, heads) t = Transpose<perm: ints = [0, 2, 1, 3]>(r) y = RotaryEmbedding(t, cos, sin) }"""


@pytest.mark.parametrize("interleaved", [0, 1])
def test_no_transpose_is_left_before_it(interleaved, tmp_path):
    text = SPLIT.replace("RotaryEmbedding(", f"RotaryEmbedding<interleaved: int = {interleaved}>(")
    rng = np.random.default_rng(0)
    feeds = [
        {
            "x": rng.standard_normal((b, s, 6)).astype(np.float32),
            "cos": rng.random((b, s, 1)).astype(np.float32),
            "sin": rng.random((b, s, 1)).astype(np.float32),
        }
        for b, s in ((1, 1), (2, 5), (7, 3))
    ]
    done = apply(PackRotary(), text, tmp_path, feeds=feeds, opset=23, ir_version=11)
    assert attributes(done.graph, "RotaryEmbedding")["num_heads"] == 3
    MergeTransposes().apply(done.graph)
    names = [node.op for node in done.graph.nodes]
    assert "Transpose" not in names[: names.index("RotaryEmbedding")]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "t = Transpose<perm: ints = [0, 2, 1, 3]>(r)",
            "u = Transpose<perm: ints = [0, 2, 1, 3]>(r) t = Neg(u)",
            "made by",
        ),
        ("heads = {0, 0, 3, 2}", "heads = {0, 0, 3, 2}, int64[4] loose = {0, 0, -1, 2}", "fixed heads"),
    ],
)
def test_what_is_left(old, new, reason, tmp_path):
    text = SPLIT.replace(old, new)
    if "loose" in new:
        text = text.replace("float[B, S, 6] x", "float[B, S, H] x").replace("(x, heads)", "(x, loose)")
        text = text.replace("float[B, 3, S, 2] y", "float[B, A, S, 2] y")
    feeds = [
        {
            "x": np.ones((2, 5, 6), np.float32),
            "cos": np.full((2, 5, 1), 0.5, np.float32),
            "sin": np.full((2, 5, 1), 0.25, np.float32),
        }
    ]
    done = apply(PackRotary(), text, tmp_path, feeds=feeds, opset=23, ir_version=11)
    assert done.result.changed == 0
    assert reason in done.reasons
