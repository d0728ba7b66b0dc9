import pytest
from nets import Transformer

from enginery.errors import PassError
from enginery.passes.module.distil.mapping import expand


@pytest.mark.parametrize(("rule", "numbers"), [("uniform", [1, 3]), ("last", [2, 3]), ("first", [0, 1])])
def test_each_layer_of_the_student_gets_one_of_the_teacher(rule, numbers):
    pairs = expand("hidden", ("blocks.*.up->blocks.*.up",), Transformer(), Transformer(layers=2), rule)
    assert pairs == [(f"blocks.{j}.up", f"blocks.{i}.up") for i, j in enumerate(numbers)]


def test_plain_names_stay():
    assert expand("hidden", (" a.b -> c ",), Transformer(), Transformer(), "uniform") == [("a.b", "c")]


def test_errors():
    with pytest.raises(PassError, match=r"expected one \* on either side"):
        expand("hidden", ("blocks.*->last",), Transformer(), Transformer(), "uniform")
    with pytest.raises(PassError, match="the teacher has 2 such layers, the student 4"):
        expand("attention", ("blocks.*->blocks.*",), Transformer(layers=2), Transformer(), "uniform")
    with pytest.raises(PassError, match="the teacher has 0 such layers"):
        expand("hidden", ("layers.*->blocks.*",), Transformer(), Transformer(), "uniform")
