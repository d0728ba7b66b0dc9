from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.errors import UsageError
from enginery.passes.spec import format_pass, parse_pass


@dataclass(frozen=True)
class Sample:
    name: ClassVar[str] = "sample"
    count: int = 1
    rate: float = 0.5
    exact: bool = False
    mode: Literal["a", "b"] = "a"
    label: str = "x"
    keep: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"


@dataclass(frozen=True)
class Positive:
    name: ClassVar[str] = "positive"
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be positive")


REGISTRY = {kind.name: kind for kind in (Sample, Plain, Positive)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", Plain()),
        ("plain{}", Plain()),
        (" sample{ count = 3 , exact=true } ", Sample(count=3, exact=True)),
        ("sample{rate=1e-3,mode=b}", Sample(rate=1e-3, mode="b")),
        ("sample{keep=[a.*,b]}", Sample(keep=("a.*", "b"))),
        ('sample{keep=["a,b","c]"],label="say \\"hi\\", twice"}', Sample(keep=("a,b", "c]"), label='say "hi", twice')),
        ("sample{limit=7}", Sample(limit=7)),
        ("sample{limit=none}", Sample()),
    ],
)
def test_text_becomes_a_pass(text, expected):
    assert parse_pass(text, REGISTRY) == expected


def test_only_options_that_differ_are_printed():
    assert format_pass(Sample()) == "sample"
    assert format_pass(Sample(count=3, exact=True, keep=("a", "b"))) == "sample{count=3,exact=true,keep=[a,b]}"


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)


@given(
    st.builds(
        Sample,
        count=st.integers(),
        rate=st.floats(allow_nan=False),
        exact=st.booleans(),
        mode=st.sampled_from(["a", "b"]),
        label=WORDS,
        keep=st.lists(WORDS, max_size=3).map(tuple),
        limit=st.none() | st.integers(),
    )
)
def test_what_is_printed_parses_back(sample):
    assert parse_pass(format_pass(sample), REGISTRY) == sample


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smaple", "Did you mean 'sample'"),
        ("other", "available: plain, positive, sample"),
        ("Sample Text", "expected `name`"),
        ("sample{size=3}", "its options are count=int, rate=float, exact=true|false"),
        ("plain{a=1}", "its options are none"),
        ("sample{count=x}", "Given 'x' for option 'count' of pass 'sample'; expected int"),
        ("sample{exact=1}", "expected true|false"),
        ("sample{mode=c}", "expected a|b"),
        ("sample{keep=a}", r"expected \[str,...\]"),
        ("sample{count=1,count=2}", "twice"),
        ("sample{keep=[a}", "not closed"),
        ("positive{count=0}", "count must be positive"),
    ],
)
def test_wrong_text_is_explained(text, message):
    with pytest.raises(UsageError, match=message):
        parse_pass(text, REGISTRY)
