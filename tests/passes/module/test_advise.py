import pytest
from nets import Cnn, Mlp, Task, Transformer, same_weights, seeded

from enginery.errors import DataError, UsageError
from enginery.passes.module import module_passes, run_module_passes
from enginery.passes.module.advise import Budget, advise
from enginery.passes.module.figures import count_macs
from enginery.passes.module.recover import Recover
from enginery.passes.spec import parse_pass


@pytest.fixture(scope="module")
def taught():
    task = Task("mlp")
    return task, Recover(epochs=10, lr=0.01).apply(seeded(Mlp), task.context())[0]


def test_every_layer_is_tried_every_way_that_it_allows(taught):
    task, module = taught
    before, heard = seeded(Mlp), []
    before.load_state_dict(module.state_dict())
    found = advise(module, task.context(), progress=lambda done, total: heard.append((done, total)))
    ways = {(effect.layer, effect.way) for effect in found.effects}
    assert {("second", "prune"), ("second", "factorize"), ("last", "int8")} <= ways
    assert ("last", "prune") not in ways, "its channels are the model's output"
    assert heard[-1] == (8, 8), "three layers three ways, but for the last one's channels"
    reasons = {(one.layer, one.way): one.reason for one in found.untried}
    assert reasons["last", "prune"] == "its channels are an output of the model"
    assert same_weights(before, module), "the module itself is not touched"
    assert found.by == "metric"
    assert found.score == task.accuracy(module)


def test_figures_are_of_the_whole_module(taught):
    task, module = taught
    effects = {(e.layer, e.way): e for e in advise(module, task.context()).effects}
    whole = 16 * 32 + 32 * 32 + 32 * 4
    pruned = effects["second", "prune"]
    assert pruned.macs_saved == pytest.approx((16 * 32 + 16 * 4) / whole)
    assert effects["second", "int8"].macs_saved == 0
    assert effects["second", "int8"].lost < pruned.lost


def test_proposals_reach_the_budget_when_they_are_built(taught):
    task, module = taught
    whole = count_macs(module, task.context().example)
    found = advise(module, task.context(), Budget(macs=0.6))
    assert [p.lost for p in found.proposals] == sorted(p.lost for p in found.proposals)
    best = found.proposals[0]
    assert best.passes[-1].startswith("recover{")
    fresh = seeded(Mlp)
    fresh.load_state_dict(module.state_dict())
    passes = [parse_pass(text, module_passes()) for text in best.passes]
    made, records = run_module_passes(fresh, passes, task.context())
    assert count_macs(made, task.context().example) == pytest.approx(best.macs * whole)
    assert best.macs <= 0.6
    assert records[0].metric_after == pytest.approx(found.score - best.lost)


@pytest.mark.parametrize(("kind", "build"), [("cnn", Cnn), ("transformer", lambda: Transformer(layers=1))])
def test_without_data_and_metric_the_outputs_are_compared(kind, build):
    task = Task(kind)
    found = advise(seeded(build), task.context(metric=None, batches=None))
    assert found.by == "cosine"
    assert found.score == pytest.approx(1.0)
    assert all(0 <= effect.lost < 2 for effect in found.effects if effect.way == "int8")
    assert all("recover" not in text for proposal in found.proposals for text in proposal.passes)
    assert found.to_json()["effects"][0]["latency_saved"] is None


class MacsAsLatency:
    """Engines whose latency is exactly their share of multiply-accumulates, plus a tenth that nothing saves."""

    def __init__(self, module, example):
        self.example, self.whole = example, count_macs(module, example)

    def latency(self, module, *, int8=False):
        return (0.1 + 0.9 * count_macs(module, self.example) / self.whole) * (0.45 if int8 else 1)

    def int8(self, layer):
        return None if layer == "first" else 0.8


def test_latency_is_measured_for_each_way_and_a_budget_of_it_is_reached(taught):
    task, module = taught
    example = task.context().example
    found = advise(module, task.context(), Budget(latency=0.5, max_drop=0.05), trials=MacsAsLatency(module, example))
    effects = {(e.layer, e.way): e for e in found.effects}
    pruned = effects["second", "prune"]
    assert pruned.latency_saved == pytest.approx(0.9 * pruned.macs_saved)
    assert effects["second", "int8"].latency_saved == pytest.approx(0.2)
    assert effects["first", "int8"].latency_saved is None
    assert effects["second", "int8"].bytes_saved == pytest.approx(
        0.75 * 1024 / (16 * 32 + 32 * 32 + 32 * 4 + 68), rel=1e-3
    )
    assert found.proposals
    for proposal in found.proposals:
        assert proposal.latency <= 0.5
        whole = proposal.latency / (0.45 if proposal.int8 else 1)
        assert proposal.macs == pytest.approx((whole - 0.1) / 0.9)
        assert proposal.holds == (proposal.lost <= 0.05)


def test_int8_is_proposed_where_the_budget_is_of_latency(taught):
    task, module = taught
    example = task.context().example
    found = advise(module, task.context(), Budget(latency=0.5), trials=MacsAsLatency(module, example))
    whole = next(proposal for proposal in found.proposals if proposal.passes == ())
    assert (whole.int8, whole.macs, whole.latency) == (True, 1.0, pytest.approx(0.45))
    assert abs(whole.lost) < 0.02
    assert not any(p.int8 for p in advise(module, task.context(), trials=MacsAsLatency(module, example)).proposals)


def test_coupled_layers_are_pruned_together():
    task = Task("cnn")
    found = advise(seeded(Cnn), task.context())
    (coupled,) = (e for e in found.effects if e.coupled)
    assert {coupled.layer, *coupled.coupled} == {"stem", "depthwise", "branch"}
    said = {(e.layer, e.way) for e in found.effects} | {(one.layer, one.way) for one in found.untried}
    said |= {(name, "prune") for name in coupled.coupled}
    assert {(e.layer, way) for e in found.effects for way in ("prune", "factorize", "int8")} <= said


def test_a_fault_of_the_data_is_no_fault_of_a_layer(taught):
    def broken():
        raise DataError("sample 3 is not finite")

    task, module = taught
    with pytest.raises(DataError, match="sample 3"):
        advise(module, task.context(batches=broken))


def test_an_engine_that_cannot_be_built_is_no_proposal(taught):
    class Refusing(MacsAsLatency):
        def latency(self, module, *, int8=False):
            return None

    task, module = taught
    found = advise(module, task.context(), Budget(latency=0.5), trials=Refusing(module, task.context().example))
    assert found.proposals == ()
    assert {e.latency_saved for e in found.effects if e.way != "int8"} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"macs": 1.5}, r"macs=1.5 is out of range"), ({"latency": 0}, "latency=0"), ({"max_drop": -1}, "max_drop=-1")],
)
def test_a_budget_out_of_range_is_wrong_usage(options, message):
    with pytest.raises(UsageError, match=message):
        Budget(**options)


def test_a_budget_of_latency_needs_a_measurement():
    with pytest.raises(UsageError, match="this run measures none"):
        advise(seeded(Mlp), Task("mlp").context(), Budget(latency=0.5))
