import torch
from nets import Mlp, Task, seeded

from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.recover import Recover
from enginery.passes.module.share.codebooks import ShareWeights


def test_pruned_weights_stay_zero_and_accuracy_comes_back():
    task = Task("mlp")
    module, _ = Recover(epochs=10, lr=0.01).apply(seeded(Mlp), task.context())
    module, _ = PruneWeights(ratio=0.8, scope="layer").apply(module, task.context())
    hurt = task.accuracy(module)
    module, result = Recover(epochs=10, lr=0.01).apply(module, task.context())
    assert task.accuracy(module) > hurt
    assert result.changed > 0
    assert float((module.second.weight == 0).float().mean()) >= 0.8 - 1e-3


def test_shared_weights_stay_shared():
    task = Task("mlp")
    module, _ = ShareWeights(codes=8, least=1).apply(seeded(Mlp), task.context())
    before = module.second.weight.detach().clone()
    module, _ = Recover(epochs=3, lr=0.01).apply(module, task.context())
    assert len(module.second.weight.detach().unique()) <= 8
    assert not torch.equal(before, module.second.weight.detach())


def test_nothing_changed_is_said_when_training_did_not_help():
    task = Task("mlp")
    module, _ = Recover(epochs=10, lr=0.01).apply(seeded(Mlp), task.context())
    _, result = Recover(epochs=1, lr=50.0).apply(module, task.context())
    assert result.changed == 0
    assert result.details["kept_epoch"] == 0
