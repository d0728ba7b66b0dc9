import copy

import pytest
import torch
from nets import Cnn, Mlp, Task, export, initializer_elements, seeded

from enginery.errors import PassError, UsageError
from enginery.passes.module.finish import finish
from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.recover import Recover

LAYERS = ("first", "second", "last")


def zeros(module, name):
    return float((module.get_submodule(name).weight == 0).float().mean())


def pruned(context=None, module=None, **options):
    return PruneWeights(**options).apply(
        module if module is not None else seeded(Mlp), context or Task("mlp").context(metric=None)
    )


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "random"])
def test_ratio_of_every_layer_is_exact(criterion):
    module, result = pruned(ratio=0.75, scope="layer", criterion=criterion)
    sizes = [module.get_submodule(name).weight.numel() for name in LAYERS]
    assert [zeros(module, name) for name in LAYERS] == [0.75] * 3
    assert result.changed == sum(sizes) * 3 // 4


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "random"])
def test_ratio_of_all_layers_together_is_exact(criterion):
    module, result = pruned(ratio=0.75, scope="global", criterion=criterion)
    sizes = [module.get_submodule(name).weight.numel() for name in LAYERS]
    assert result.changed == round(0.75 * sum(sizes))
    assert len({zeros(module, name) for name in LAYERS}) > 1


def test_the_smallest_magnitudes_go():
    original = seeded(Mlp).second.weight.detach().abs()
    module, _ = pruned(ratio=0.5, scope="layer")
    gone = module.second.weight == 0
    assert float(original[gone].max()) <= float(original[~gone].min())


def test_l1_and_l2_agree_on_single_weights_and_lamp_differs_between_layers():
    masks = {
        criterion: torch.cat(
            [pruned(ratio=0.6, criterion=criterion)[0].get_submodule(n).weight_mask.flatten() for n in LAYERS]
        )
        for criterion in ("l1", "l2", "lamp")
    }
    assert torch.equal(masks["l1"], masks["l2"])
    assert not torch.equal(masks["l1"], masks["lamp"])


def test_lamp_scores_are_the_papers():
    from enginery.passes.module.prune.masks import attach, scores

    layer = torch.nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -1.0, 2.0]]))
    attach([("layer", layer)])
    found = scores([("layer", layer)], "lamp", 0)["layer"]
    assert found.flatten().tolist() == pytest.approx([1.0, 1 / 14, 4 / 13])


def test_random_depends_on_the_seed_alone():
    def mask(seed):
        module, _ = pruned(Task("mlp").context(seed=seed), ratio=0.5, criterion="random")
        return module.second.weight_mask

    assert torch.equal(mask(1), mask(1))
    assert not torch.equal(mask(1), mask(2))


def test_threshold_drops_what_is_below_it():
    module, _ = pruned(threshold=0.1)
    expected = seeded(Mlp).second.weight.detach()
    expected[expected.abs() < 0.1] = 0
    assert torch.equal(module.second.weight.detach(), expected)


def test_layers_are_chosen_by_name_and_convolutions_count():
    module, _ = pruned(Task("cnn").context(), seeded(Cnn), ratio=0.5, layers="branch|hidden", scope="layer")
    assert (zeros(module, "branch"), zeros(module, "hidden"), zeros(module, "stem")) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("prune", ["iterative", "cubic"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_gradual_pruning_reaches_the_ratio_while_it_trains(prune, ema):
    task, seen = Task("mlp"), []
    options = {"ratio": 0.8, "prune": prune, "steps": 4, "epochs": 6, "lr": 0.01, "ema": ema}

    module = seeded(Mlp)
    context = task.context(progress=lambda done, _all: seen.append(zeros(module, "second")))
    module, result = pruned(context, module, **options)
    total = sum(module.get_submodule(n).weight.numel() for n in LAYERS)
    assert result.changed == round(0.8 * total)
    assert sum(int((module.get_submodule(n).weight == 0).sum()) for n in LAYERS) >= result.changed
    assert seen == sorted(seen)
    assert len(set(seen)) == 4
    assert task.accuracy(module) > task.accuracy(pruned(ratio=0.8)[0])


def test_the_original_can_teach_meanwhile_without_labels():
    task = Task("mlp")
    original = Recover(epochs=8, lr=0.01).apply(seeded(Mlp), task.context())[0]
    options = {"ratio": 0.8, "prune": "cubic", "steps": 4, "epochs": 6, "lr": 0.01, "alpha": 1.0}
    context = task.context(original=lambda: copy.deepcopy(original), batches=task.unlabelled)
    module, result = pruned(context, copy.deepcopy(original), **options)
    assert zeros(module, "second") > 0.5
    assert result.details["training"]["epochs"] == 6
    assert task.accuracy(module) > task.accuracy(pruned(module=copy.deepcopy(original), ratio=0.8)[0])
    with pytest.raises(PassError, match=r"alpha=1\.0 learns from the original, and this run was given none"):
        pruned(task.context(), copy.deepcopy(original), **options)


@pytest.mark.parametrize("options", [{"prune": "cubic", "epochs": 1, "alpha": 1.5}, {"alpha": 0.5}])
def test_a_teacher_out_of_range_or_without_a_training_is_wrong_usage(options):
    with pytest.raises(UsageError, match=r"alpha=1\.5|does not train"):
        PruneWeights(ratio=0.5, **options)


def test_cubic_prunes_early():
    parts = {kind: PruneWeights(ratio=0.8, prune=kind, epochs=1)._part(0.25) for kind in ("iterative", "cubic")}
    assert parts == {"iterative": 0.25, "cubic": pytest.approx(1 - 0.75**3)}


def test_the_report_says_that_latency_stays(tmp_path):
    module, result = pruned(ratio=0.9)
    assert "latency is unchanged" in result.details["gain"]
    dense = export(seeded(Mlp), Task("mlp").x[:2], tmp_path / "dense.onnx")
    sparse = export(finish(module), Task("mlp").x[:2], tmp_path / "sparse.onnx")
    assert initializer_elements(sparse) == initializer_elements(dense)


def test_refuses_a_shared_weight_and_an_already_masked_one():
    module = seeded(Mlp)
    module.tied = torch.nn.Linear(32, 32)
    module.tied.weight = module.second.weight
    module, result = pruned(module=module, ratio=0.5)
    assert sorted(map(str, result.refusals)) == [
        "second: its weight is shared with tied.weight",
        "tied: its weight is shared with second.weight",
    ]
    _, result = pruned(module=module, ratio=0.5, layers="first")
    assert list(map(str, result.refusals)) == ["first: its weight is already masked or shared by an earlier pass"]


@pytest.mark.parametrize(("layers", "message"), [("nothing", "available: first, second, last"), ("(", "not a regular")])
def test_a_pattern_that_matches_nothing_is_an_error(layers, message):
    with pytest.raises(PassError, match=message):
        pruned(ratio=0.5, layers=layers)


def test_a_masked_module_survives_a_second_run_unchanged():
    module, _ = pruned(ratio=0.5)
    before = module.second.weight.detach().clone()
    module, result = pruned(module=module, ratio=0.5)
    assert result.changed == 0
    assert torch.equal(module.second.weight.detach(), before)
