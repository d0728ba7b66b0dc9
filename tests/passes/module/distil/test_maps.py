import numpy as np
import pytest
import torch
from nets import Mlp, Task, Transformer, same_weights, seeded

from enginery.errors import PassError
from enginery.passes.module.distil.distil import Distil
from enginery.passes.module.distil.maps import Maps
from enginery.passes.module.outputs import run

NAME = "blocks.0.attention"


def divergence(teacher, student, x, **inputs):
    with Maps(teacher, student, [(NAME, NAME)]) as maps, torch.no_grad():
        for module in (teacher, student):
            run(module, {"x": torch.from_numpy(x)})
        return float(maps.loss(0, inputs))


@torch.no_grad()
def by_hand(teacher, student, x):
    """Head by head, from softmax(q k^T / sqrt(width))."""
    maps = []
    for module in (teacher, student):
        attention = module.blocks[0].attention
        q, k = (
            p(torch.from_numpy(x)).unflatten(-1, (4, 4)).transpose(1, 2) for p in (attention.q_proj, attention.k_proj)
        )
        maps.append((q @ k.transpose(-1, -2) / 2).softmax(-1))
    return float((maps[0] * (maps[0] / maps[1]).log()).sum(-1).mean())


def test_the_loss_is_the_divergence_of_the_maps():
    x = Task("transformer").x[:5]
    teacher, student = seeded(Transformer), seeded(Transformer, 1)
    assert divergence(teacher, teacher, x) == pytest.approx(0, abs=1e-6)
    assert divergence(teacher, student, x) == pytest.approx(by_hand(teacher, student, x), rel=1e-4)
    assert divergence(teacher, seeded(lambda: Transformer(heads=2), 1), x) > 0


def test_padding_does_not_count():
    x = Task("transformer").x[:2]
    teacher, student = seeded(Transformer), seeded(Transformer, 1)
    padded = np.concatenate([x, np.full((2, 3, 16), 7, np.float32)], 1)
    mask = torch.tensor([[1] * 6 + [0] * 3] * 2)
    assert divergence(teacher, student, padded, attention_mask=mask) == pytest.approx(
        divergence(teacher, student, x), rel=1e-4
    )
    assert divergence(teacher, student, padded) != pytest.approx(divergence(teacher, student, x), rel=1e-2)


def test_a_shallow_student_takes_over_its_teachers_maps():
    task = Task("transformer", samples=64)
    context = task.context(original=lambda: seeded(Transformer), metric=None)
    text = "blocks.*.attention->blocks.*.attention"

    def trained():
        student = seeded(lambda: Transformer(layers=2), 1)
        return Distil(epochs=8, lr=0.01, alpha=1.0, attention=(text,), attention_weight=10.0).apply(student, context)

    student, result = trained()
    assert result.details["layers"] == [f"blocks.{j}.attention->blocks.{i}.attention" for i, j in ((0, 1), (1, 3))]
    assert same_weights(student, trained()[0])
    assert not any(layer._forward_hooks for layer in student.modules())

    @torch.no_grad()
    def apart(module):
        with Maps(seeded(Transformer), module, [("blocks.3.attention", "blocks.1.attention")]) as maps:
            for one in maps.modules:
                run(one, {"x": torch.from_numpy(task.x)})
            return float(maps.loss(0, {}))

    assert apart(student) < 0.7 * apart(seeded(lambda: Transformer(layers=2), 1))


def test_errors():
    context = Task("transformer").context(original=lambda: seeded(Transformer))

    def distil(pair):
        Distil(epochs=1, attention=(pair,)).apply(seeded(Transformer), context)

    with pytest.raises(PassError, match="attention names 'nowhere', which the teacher does not have"):
        distil(f"nowhere->{NAME}")
    with pytest.raises(
        PassError, match="of the student; expected a module with linear children such as query/key/value"
    ):
        distil(f"{NAME}->blocks.0")
    with pytest.raises(PassError, match="attention names"):
        Distil(epochs=1, attention=("first->first",)).apply(
            seeded(Mlp), Task("mlp").context(original=lambda: seeded(Mlp))
        )
