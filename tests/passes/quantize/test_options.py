import re

import pytest

from enginery.passes.quantize import pattern_of


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("node_linear_3", "node_linear_3"),
        ("Conv -> c", "Conv -> c"),
        ("encoder.0/MatMul", r"encoder\.0/MatMul"),
        ("f(x)[1]+", r"f\(x\)\[1\]\+"),
    ],
)
def test_the_pattern_of_exactly_one_name(name, pattern):
    assert pattern_of(name) == pattern
    assert re.fullmatch(pattern, name)
