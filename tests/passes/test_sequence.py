from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from graphs import parse_model

from enginery.engines.onnxruntime import open_model
from enginery.errors import PassError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph import default_passes
from enginery.passes.graph.clean.remove_identities import RemoveIdentities
from enginery.passes.sequence import run_graph_passes

TEXT = (
    "g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}> { a = Mul(x, w) b = Identity(a) c = Exp(b) y = Neg(c) }"
)
FEEDS = [{"x": np.full((n, 2), 0.5, np.float32)} for n in (1, 3)]


@dataclass(frozen=True)
class Scale:
    """Breaks the numbers by a factor, and says so nowhere."""

    name: ClassVar[str] = "scale"
    tolerance: ClassVar[float] = 1e-5
    factor: float = 2.0

    def apply(self, graph: gs.Graph) -> PassResult:
        weight = graph.tensors()["w"]
        weight.values = weight.values * np.float32(self.factor)
        return PassResult(1)


@dataclass(frozen=True)
class Unsorted:
    name: ClassVar[str] = "unsorted"

    def apply(self, graph: gs.Graph) -> PassResult:
        graph.nodes.reverse()
        return PassResult(1)


@dataclass(frozen=True)
class Raises:
    name: ClassVar[str] = "raises"

    def apply(self, graph: gs.Graph) -> PassResult:
        raise KeyError("a bug")


@dataclass(frozen=True)
class Looks:
    name: ClassVar[str] = "looks"

    def apply(self, graph: gs.Graph) -> PassResult:
        assert all(node.outputs[0].shape is not None for node in graph.nodes), "types are kept current"
        return PassResult(refusals=(Refusal("a", "nothing to do"),))


@pytest.fixture
def model(tmp_path):
    onnx.save(parse_model(TEXT), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def run(model, passes, **options):
    options = {"open_model": open_model, "feeds": FEEDS} | options
    return run_graph_passes(model, model.with_name("out.onnx"), passes, **options)


def test_each_pass_is_recorded(model):
    records = run(model, [RemoveIdentities(), Looks()])
    assert [(r.name, r.result.changed, r.nodes_before, r.nodes_after) for r in records] == [
        ("remove-identities", 1, 4, 3),
        ("looks", 0, 3, 3),
    ]
    assert records[0].proof[0].relative == 0.0
    assert records[1].proof == ()
    assert records[1].to_json()["refusals"] == [{"node": "a", "reason": "nothing to do"}]
    assert len(onnx.load(model.with_name("out.onnx")).graph.node) == 3


def test_nothing_is_left_beside_the_output(model):
    run(model, default_passes("onnxruntime-cpu"))
    assert sorted(file.name for file in model.parent.iterdir()) == ["in.onnx", "out.onnx"]


def test_a_pass_that_breaks_the_numbers_is_named_with_the_first_tensor(model):
    with pytest.raises(PassError, match=r"'scale\{factor=3.0\}' failed .*remove-identities.* is 'a'"):
        run(model, [RemoveIdentities(), Scale(factor=3.0)])
    assert not model.with_name("out.onnx").exists()


def test_an_error_within_the_tolerance_passes(model):
    records = run(model, [Scale(factor=1 + 1e-6)])
    assert 0 < records[0].proof[0].relative < 1e-5


@pytest.mark.parametrize("prove", ["each", "end"])
@pytest.mark.parametrize(("factor", "holds"), [(1.004, True), (1.02, False)])
def test_half_precision_may_round_in_another_order(prove, factor, holds, tmp_path):
    text = "g (float16[N, 2] x) => (float16[N, 2] y) <float[2] w = {1, 2}> { c = Cast<to: int = 10>(w) y = Mul(x, c) }"
    onnx.save(parse_model(text), tmp_path / "in.onnx")
    feeds = [{"x": np.full((3, 2), 0.5, np.float16)}]
    if holds:
        run(tmp_path / "in.onnx", [Scale(factor)], feeds=feeds, prove=prove)
    else:
        with pytest.raises(PassError, match=r"allowed: 0\.0078"):
            run(tmp_path / "in.onnx", [Scale(factor)], feeds=feeds, prove=prove)


def test_weights_that_are_stored_in_half_precision_loosen_nothing(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2] w = {1, 2}>
        { c = Cast<to: int = 10>(w) d = Cast<to: int = 1>(c) y = Mul(x, d) }"""
    onnx.save(parse_model(text), tmp_path / "in.onnx")
    with pytest.raises(PassError, match="allowed: 1e-05"):
        run(tmp_path / "in.onnx", [Scale(1.004)])


def test_the_proof_at_the_end_finds_it_too(model):
    with pytest.raises(PassError, match="All passes together changed output 'y'"):
        run(model, [Scale()], prove="end")


def test_without_proof_it_goes_through(model):
    assert run(model, [Scale()], prove="off", feeds=())[0].result.changed == 1


def test_proving_without_feeds_is_an_error(model):
    with pytest.raises(PassError, match="no feeds were given"):
        run(model, [Scale()], feeds=())


@pytest.mark.parametrize("prove", ["each", "end"])
def test_inputs_on_which_nothing_is_finite_prove_nothing(model, prove):
    feeds = [{"x": np.full((n, 2), np.nan, np.float32)} for n in (1, 3)]
    with pytest.raises(PassError, match="no output of the model holds a finite number"):
        run(model, [RemoveIdentities()], feeds=feeds, prove=prove)
    assert run(model, [RemoveIdentities()], feeds=[*feeds, *FEEDS], prove=prove)[0].result.changed == 1


def test_an_invalid_graph_is_named(model):
    with pytest.raises(PassError, match=r"'unsorted' failed .* checker refused"):
        run(model, [Unsorted()])


def test_a_pass_that_raises_is_named(model):
    with pytest.raises(PassError, match=r"'raises' failed .*KeyError: 'a bug' \(test_sequence\.py, line \d+: raise"):
        run(model, [Raises()])


@dataclass(frozen=True)
class Miscounts(Scale):
    name: ClassVar[str] = "miscounts"

    def apply(self, graph: gs.Graph) -> PassResult:
        super().apply(graph)
        return PassResult(0)


def test_a_pass_of_ones_own_is_proved_whatever_it_counts(model):
    with pytest.raises(PassError, match=r"'miscounts' failed .*It changed output 'y'"):
        run(model, [Miscounts()])


def test_a_pass_that_returns_nothing_is_named(model):
    @dataclass(frozen=True)
    class Silent:
        name: ClassVar[str] = "silent"

        def apply(self, graph):
            pass

    with pytest.raises(PassError, match=r"'silent' failed .*apply returned 'NoneType', and a PassResult is expected"):
        run(model, [Silent()])


def test_two_runs_give_the_same_bytes(model):
    for name in ("one.onnx", "two.onnx"):
        run_graph_passes(
            model, model.with_name(name), default_passes("onnxruntime-cpu"), open_model=open_model, feeds=FEEDS
        )
    assert model.with_name("one.onnx").read_bytes() == model.with_name("two.onnx").read_bytes()
