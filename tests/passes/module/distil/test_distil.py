import pytest
import torch
from nets import Cnn, Mlp, Task, Transformer, same_weights, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.distil.distil import Distil
from enginery.passes.module.distil.drop_layers import DropLayers
from enginery.passes.module.recover import Recover
from enginery.passes.module.training.teaching import soft_loss

FAST = {"epochs": 6, "lr": 0.01}


def teacher_of(task):
    return Recover(epochs=15, lr=0.01).apply(seeded(Mlp), task.context())[0]


def student():
    return Mlp(width=12)


def test_a_named_student_replaces_its_teacher_and_learns_without_labels():
    task = Task("mlp")
    teacher = teacher_of(task)
    context = task.context(batches=task.unlabelled, resolve={"s.py:student": student}.__getitem__)
    found, result = Distil(student="s.py:student", alpha=1.0, **FAST).apply(teacher, context)
    assert found.second.out_features == 12
    assert task.accuracy(found) > task.accuracy(seeded(student)) + 0.2
    assert result.details["student_parameters"] < result.details["teacher_parameters"]
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_derived_student_learns_from_the_original():
    task = Task("transformer")
    original = Recover(epochs=8, lr=0.005).apply(seeded(Transformer), task.context())[0]
    state = original.state_dict()

    def make():
        module = Transformer()
        module.load_state_dict(state)
        return module

    context = task.context(original=make)
    module, _ = DropLayers(keep=2).apply(make(), context)
    before = task.accuracy(module)
    hidden = ("blocks.3->blocks.1",)
    module, result = Distil(alpha=0.7, hidden=hidden, **FAST).apply(module, context)
    assert task.accuracy(module) > before
    assert result.changed > 0
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("soft", ["kl", "mse", "cosine"])
@pytest.mark.parametrize("match", ["mse", "relation", "energy"])
def test_every_loss_trains_and_repeats(soft, match):
    task = Task("transformer", samples=64)
    context = task.context(original=lambda: seeded(Transformer), metric=None)
    made = [
        Distil(epochs=2, alpha=0.5, soft=soft, match=match, hidden=("blocks.0->blocks.0",)).apply(
            seeded(lambda: Transformer(layers=1, width=16)), context
        )
        for _ in range(2)
    ]
    assert same_weights(made[0][0], made[1][0])
    assert made[0][1].details["losses"][1] < made[0][1].details["losses"][0]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_features_of_other_widths_are_projected_and_the_projection_is_dropped(kind):
    task = Task(kind, samples=64)
    wide, narrow, layer = {"mlp": (Mlp, student, "second"), "cnn": (Cnn, Narrow, "stem")}[kind]
    context = task.context(resolve=lambda _: narrow, metric=None)
    found, result = Distil(student="s", epochs=1, hidden=(f"{layer}->{layer}",)).apply(seeded(wide), context)
    assert set(found.state_dict()) == set(narrow().state_dict())
    assert result.details["epochs"] == 1


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.stem(x).mean((2, 3)))


def test_soft_losses_by_hand():
    teacher, given = {"0": torch.tensor([[2.0, 0.0]])}, {"0": torch.tensor([[0.0, 0.0]])}
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    divergence = float((p * (p / 0.5).log()).sum())
    assert float(soft_loss("kl", 2.0, teacher, given)) == pytest.approx(4 * divergence, rel=1e-5)
    assert float(soft_loss("mse", 1.0, teacher, given)) == pytest.approx(2.0)
    assert float(soft_loss("cosine", 1.0, teacher, {"0": torch.tensor([[0.0, 3.0]])})) == pytest.approx(1.0)
    assert all(
        float(soft_loss(kind, 2.0, teacher, teacher)) == pytest.approx(0, abs=1e-6) for kind in ("kl", "mse", "cosine")
    )


def test_errors():
    task = Task("mlp")
    with pytest.raises(PassError, match="no original as its teacher"):
        Distil(**FAST).apply(seeded(Mlp), task.context())
    with pytest.raises(PassError, match="nothing to resolve it with"):
        Distil(student="s.py:f", **FAST).apply(seeded(Mlp), task.context())
    with pytest.raises(PassError, match=r"returned a int; expected an nn.Module"):
        Distil(student="s.py:f", **FAST).apply(seeded(Mlp), task.context(resolve=lambda _: lambda: 3))
    original = task.context(original=lambda: seeded(Mlp))
    with pytest.raises(PassError, match=r"hidden names 'nowhere', which the teacher does not have; available: first"):
        Distil(hidden=("nowhere->first",), **FAST).apply(seeded(Mlp), original)
    with pytest.raises(PassError, match="has no labels"):
        Distil(alpha=0.5, **FAST).apply(
            seeded(Mlp), task.context(original=lambda: seeded(Mlp), batches=task.unlabelled)
        )
    cnn = Task("cnn").context(original=lambda: seeded(Cnn))
    with pytest.raises(PassError, match="differ in more than the width"):
        Distil(hidden=("stem->right",), **FAST).apply(seeded(Cnn), cnn)
