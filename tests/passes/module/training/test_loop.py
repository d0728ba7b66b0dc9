import pytest
import torch
from nets import Cnn, Mlp, Task, same_weights, seeded, weights_of

from enginery.errors import IntegrityError, PassError
from enginery.passes.module.training.loop import train
from enginery.passes.module.training.losses import task_loss
from enginery.passes.module.training.options import Training


def trained(task, module=None, *, context=None, **options):
    module = module if module is not None else seeded(Mlp)
    training = Training(**({"epochs": 2, "lr": 0.01} | options))
    report = train(module, training, context or task.context(), task_loss(training, None), name="recover")
    return module, report


def test_it_learns_and_ends_in_eval_mode():
    task = Task("mlp")
    module, report = trained(task, epochs=8, batch=16)
    assert task.accuracy(module) > task.accuracy(seeded(Mlp)) + 0.3
    assert report["losses"][-1] < report["losses"][0]
    assert not module.training
    assert report["steps"] == 8 * 16


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("batch", [None, 64])
def test_the_same_seed_gives_the_same_weights(optimizer, batch):
    options = {"optimizer": optimizer, "batch": batch, "ema": 0.9, "clip": 1.0, "weight_decay": 0.01, "warmup": 0.1}
    one, _ = trained(Task("mlp"), **options)
    other, _ = trained(Task("mlp"), **options)
    assert same_weights(one, other)
    different, _ = trained(Task("mlp"), context=Task("mlp").context(seed=1), **options)
    assert not same_weights(one, different)


def test_the_callers_random_numbers_are_untouched():
    module = seeded(Mlp)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(Task("mlp"), module)
    assert torch.equal(torch.rand(3), expected)


def test_the_best_epoch_is_kept_even_if_it_is_the_start():
    task = Task("mlp")
    good, _ = trained(task, epochs=8)
    before = weights_of(good)
    module, report = trained(task, good, epochs=1, lr=50.0)
    assert report["kept_epoch"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_keep_last_takes_the_last_epoch():
    task = Task("mlp")
    _, report = trained(task, epochs=3, keep="last")
    assert report["kept_epoch"] == 3
    assert report["metrics"] == []


def test_patience_ends_the_training():
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    task = Task("mlp")
    _, report = trained(task, context=task.context(metric=lambda _: next(scores)), epochs=50, patience=2)
    assert (report["ended_by"], report["epochs"], report["kept_epoch"]) == ("patience", 3, 1)


def test_minutes_end_the_training_and_are_not_called_repeatable():
    _, report = trained(Task("mlp"), epochs=None, minutes=0.002)
    assert report["ended_by"] == "minutes"
    assert report["repeatable"] is False
    assert report["steps"] >= 1


def test_bf16_autocast_trains():
    task = Task("cnn", samples=64)
    module, report = trained(task, seeded(Cnn), epochs=4, autocast="bf16")
    assert report["losses"][-1] < report["losses"][0]
    assert next(module.parameters()).dtype == torch.float32


def test_sparsity_training_makes_weights_smaller():
    plain, _ = trained(Task("mlp"), epochs=4, keep="last")
    sparse, _ = trained(Task("mlp"), epochs=4, keep="last", sparsity="l1", strength=0.01)
    assert float(sparse.second.weight.detach().abs().sum()) < float(plain.second.weight.detach().abs().sum())


class Killed(Exception):
    pass


@pytest.mark.parametrize(("stop", "seconds"), [(5, 1e9), (5, 0.0), (13, 0.0)])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, monkeypatch, stop, seconds):
    """8 batches an epoch: killed within the first epoch without a checkpoint, with one, and within the second."""
    monkeypatch.setattr("enginery.passes.module.training.loop.CHECKPOINT_SECONDS", seconds)
    task, options = Task("mlp"), {"epochs": 3, "ema": 0.9}

    def die(done, _all):
        if done == stop:
            raise Killed

    whole, report = trained(task, **options)
    with pytest.raises(Killed):
        trained(task, context=task.context(workdir=tmp_path, progress=die), **options)
    resumed, again = trained(task, context=task.context(workdir=tmp_path), **options)
    assert same_weights(whole, resumed)
    assert again == report


def test_a_training_that_ended_is_remembered_even_one_by_the_clock(tmp_path):
    task, steps = Task("mlp"), []
    options = {"epochs": None, "minutes": 0.005}
    one, report = trained(task, context=task.context(workdir=tmp_path), **options)
    context = task.context(workdir=tmp_path, progress=lambda done, _all: steps.append(done))
    other, again = trained(task, context=context, **options)
    assert steps == []
    assert again == report
    assert same_weights(one, other)


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr("enginery.passes.module.training.loop.CHECKPOINT_SECONDS", 0.0)
    task = Task("mlp")

    def die(done, _all):
        raise Killed

    with pytest.raises(Killed):
        trained(task, context=task.context(workdir=tmp_path, progress=die), lr=0.5)
    module, _ = trained(task, context=task.context(workdir=tmp_path))
    assert same_weights(module, trained(task)[0])


def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("enginery.passes.module.training.loop.CHECKPOINT_SECONDS", 0.0)
    task = Task("mlp")

    def die(done, _all):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        trained(task, context=task.context(workdir=tmp_path, progress=die))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="delete it to start anew"):
        trained(task, context=task.context(workdir=tmp_path))


def test_refusals():
    task = Task("mlp")
    with pytest.raises(PassError, match="name `data: training:`"):
        trained(task, context=task.context(batches=None))
    with pytest.raises(PassError, match=r"the loss is (nan|inf) at step .* lower lr or set clip"):
        trained(task, optimizer="sgd", lr=1e12, epochs=5, schedule="constant")
    with pytest.raises(PassError, match="nothing to train"):
        trained(task, seeded(Mlp).requires_grad_(False))
