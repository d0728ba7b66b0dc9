from graphs import apply

from enginery.passes.graph.fusion.grouped_queries import FuseGroupedQueries

KEYS = "k = Reshape(ke, four)"
VALUES = "v = Reshape(ve, four)"


def grouped(*, keys=KEYS, values=VALUES):
    """Two groups of keys and values, each repeated for two heads, as torch's exporter writes it."""
    return f"""g (float[B, 4, S, 2] q, float[B, 2, T, 2] ks, float[B, 2, T, 2] vs) => (float[B, 4, S, 2] y)
    <int64[1] two = {{2}}, int64[5] to = {{1, 1, 2, 1, 1}}, int64[1] heads = {{4}}, int64[4] repeat = {{1, 2, 1, 1}}>
    {{ b = Shape<start: int = 0, end: int = 1>(ks) t = Shape<start: int = 2, end: int = 3>(ks)
      four = Concat<axis: int = 0>(b, heads, t, two) ku = Unsqueeze(ks, two) ke = Expand(ku, to) {keys}
      vu = Unsqueeze(vs, two) ve = Expand(vu, to) {values} y = Attention(q, k, v) }}"""


def run(text, folder):
    return apply(FuseGroupedQueries(), text, folder, opset=23, ir_version=11)


def test_keys_and_values_are_read_before_their_repeat(tmp_path):
    done = run(grouped(), tmp_path)
    assert done.ops[-1] == "Attention"
    assert "Expand" not in done.ops
    assert [tensor.name for tensor in done.graph.nodes[-1].inputs] == ["q", "ks", "vs"]


def test_only_one_of_them_repeated_is_left(tmp_path):
    done = run(grouped(values="v = Tile(vs, repeat)"), tmp_path)
    assert done.result.changed == 0
    assert "only one of keys and values is repeated" in done.reasons


def test_equal_heads_are_left_alone(tmp_path):
    text = "g (float[B, 4, S, 2] q, float[B, 4, T, 2] k, float[B, 4, T, 2] v) => (float[B, 4, S, 2] y)"
    done = run(f"{text} {{ y = Attention(q, k, v) }}", tmp_path)
    assert (done.result.changed, done.reasons) == (0, "")
