"""Which histograms follow from another tensor's."""

import pytest
from graphs import parse_model

from enginery.passes.calibration.derived import Derived, derived_histograms


def derived(body, *tensors):
    text = f"g (float[N, 4] x) => (float y) <int64[2] s = {{-1, 2}}> {{ a = Exp(x) {body} }}"
    return derived_histograms(parse_model(text), frozenset(tensors))


@pytest.mark.parametrize("made", ["Relu(a)", "Reshape(a, s)", "Transpose(a)", "Identity(a)"])
def test_what_is_moved_or_rectified_follows(made):
    assert derived(f"y = {made}", "a", "y") == {"y": Derived("a", rectified=made == "Relu(a)")}


def test_a_chain_follows_from_its_beginning():
    found = derived("b = Relu(a) c = Transpose(b) y = Reshape(c, s)", "a", "b", "y")
    assert found == {"b": Derived("a", rectified=True), "y": Derived("a", rectified=True)}


def test_what_is_not_observed_is_looked_through():
    assert derived("b = Relu(a) y = Reshape(b, s)", "a", "y") == {"y": Derived("a", rectified=True)}
    assert derived("b = Relu(a) y = Reshape(b, s)", "y") == {}


@pytest.mark.parametrize("made", ["Neg(a)", "Clip(a)", "Add(a, a)", "com.microsoft.Relu(a)"])
def test_what_computes_or_is_of_another_domain_does_not_follow(made):
    assert derived(f"y = {made}", "a", "y") == {}
