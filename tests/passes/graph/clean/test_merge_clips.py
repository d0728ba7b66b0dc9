import pytest
from graphs import apply

from enginery.passes.graph.clean.merge_clips import MergeClips

TEXT = """g (float[N, 3] x) => (float[N, 3] y)
    <float low = {-1}, float high = {0.5}, float least = {0}, float most = {6}>
    { c = Clip(x, low, high) y = Clip(c, least, most) }"""


def test_two_clips_become_one(tmp_path):
    done = apply(MergeClips(), TEXT, tmp_path)
    assert done.ops == ["Clip"]
    assert [float(bound.values) for bound in done.graph.nodes[0].inputs[1:]] == [0.0, 0.5]


@pytest.mark.parametrize("bounds", [("-3", "-2"), ("7", "9"), ("0.1", "0.2"), ("-9", "9")])
def test_ranges_that_overlap_in_any_way(bounds, tmp_path):
    text = TEXT.replace("{-1}", f"{{{bounds[0]}}}").replace("{0.5}", f"{{{bounds[1]}}}").replace("{0}", "{0.05}")
    assert apply(MergeClips(), text, tmp_path).ops == ["Clip"]


def test_three_clips_become_one(tmp_path):
    text = TEXT.replace("y = Clip(c, least, most)", "d = Clip(c, least, most) y = Clip(d, low, most)")
    assert apply(MergeClips(), text, tmp_path).ops == ["Clip"]


def test_a_bound_that_the_caller_may_set_keeps_both(tmp_path):
    done = apply(MergeClips(), TEXT.replace("[N, 3] x)", "[N, 3] x, float low)", 1), tmp_path)
    assert done.ops == ["Clip", "Clip"]
    assert "the bound 'low' is no constant" in done.reasons


def test_a_value_that_is_read_elsewhere_keeps_both(tmp_path):
    text = TEXT.replace("=> (", "=> (float[N, 3] z, ").replace("most) }", "most) z = Neg(c) }")
    assert "'c' is also read by 'Neg -> z'" in apply(MergeClips(), text, tmp_path).reasons
