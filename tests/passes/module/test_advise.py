import pytest
from nets import Cnn, Mlp, Task, Transformer, same_weights, seeded

from enginery.errors import UsageError
from enginery.passes.module import module_passes, run_module_passes
from enginery.passes.module.advise import advise
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
    assert heard[-1] == (9, 9)
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
    found = advise(module, task.context(), macs=0.6)
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
    assert found.to_json()["effects"][0].keys() == {"layer", "way", "lost", "parameters_saved", "macs_saved"}


def test_a_budget_out_of_range_is_wrong_usage():
    with pytest.raises(UsageError, match=r"macs=1.5 is out of range"):
        advise(seeded(Mlp), Task("mlp").context(), macs=1.5)
