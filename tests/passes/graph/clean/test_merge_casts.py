import pytest
from graphs import apply, attributes

from enginery.passes.graph.clean.merge_casts import MergeCasts


@pytest.mark.parametrize(
    ("given", "middle", "last"), [("float", 11, 10), ("int32", 7, 1), ("bool", 1, 7), ("uint8", 6, 7)]
)
def test_a_widening_cast_before_a_cast_goes(given, middle, last, tmp_path):
    names = {10: "float16", 7: "int64", 1: "float"}
    text = f"""g ({given}[N] x) => ({names[last]}[N] y)
    {{ a = Cast<to: int = {middle}>(x) y = Cast<to: int = {last}>(a) }}"""
    done = apply(MergeCasts(), text, tmp_path)
    assert attributes(done.graph, "Cast") == {"to": last}


@pytest.mark.parametrize(("given", "middle"), [("float", 10), ("int64", 6), ("float", 7), ("int64", 1)])
def test_a_narrowing_cast_is_kept(given, middle, tmp_path):
    text = f"g ({given}[N] x) => (double[N] y) {{ a = Cast<to: int = {middle}>(x) y = Cast<to: int = 11>(a) }}"
    done = apply(MergeCasts(), text, tmp_path)
    assert done.ops == ["Cast", "Cast"]
    assert "narrows" in done.reasons


def test_a_middle_value_that_others_read_stays(tmp_path):
    text = """g (float16[N] x) => (double[N] y, float[N] z)
    { a = Cast<to: int = 1>(x) y = Cast<to: int = 11>(a) z = Neg(a) }"""
    assert sorted(apply(MergeCasts(), text, tmp_path).ops) == ["Cast", "Cast", "Neg"]
