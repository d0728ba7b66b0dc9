import numpy as np
import pytest
import torch
from nets import Cnn, Task, Transformer, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import PassError
from enginery.passes.module.distil.drop_layers import DropLayers


def dropped(module=None, **options):
    return DropLayers(**options).apply(module or seeded(lambda: Transformer(layers=6)), Task("transformer").context())


@pytest.mark.parametrize(
    ("keep", "choose", "kept"),
    [(3, "even", [0, 2, 5]), (2, "even", [0, 5]), (1, "even", [0]), (3, "first", [0, 1, 2])],
)
def test_which_blocks_stay(keep, choose, kept):
    _, result = dropped(keep=keep, choose=choose)
    assert result.details == {"container": "blocks", "kept": kept, "of": 6}
    assert result.changed == 6 - keep


def test_blocks_that_do_least_go_first():
    module = seeded(lambda: Transformer(layers=4))
    with torch.no_grad():
        for index in (1, 2):
            module.blocks[index].down.weight.mul_(1e-3)
            module.blocks[index].down.bias.zero_()
            module.blocks[index].attention.out_proj.weight.mul_(1e-3)
            module.blocks[index].attention.out_proj.bias.zero_()
    expected = outputs_of(module, Task("transformer").x[:4])
    module, result = dropped(module, keep=2, choose="influence")
    assert result.details["kept"] == [0, 3]
    np.testing.assert_allclose(outputs_of(module, Task("transformer").x[:4]), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("choose", ["l1", "l2", "taylor"])
def test_blocks_of_small_weights_or_small_effect_go_first(choose):
    module = seeded(lambda: Transformer(layers=4))
    with torch.no_grad():
        for parameter in module.blocks[2].parameters():
            parameter.mul_(1e-3)
    module, result = dropped(module, keep=3, choose=choose)
    assert result.details["kept"] == [0, 1, 3]
    assert all(p.grad is None for p in module.parameters())
    _, result = dropped(seeded(lambda: Transformer(layers=4)), keep=1, choose="random")
    assert (
        result.details["kept"]
        == dropped(seeded(lambda: Transformer(layers=4)), keep=1, choose="random")[1].details["kept"]
    )


def test_the_graph_is_smaller(tmp_path):
    x = Task("transformer").x
    before = export(seeded(lambda: Transformer(layers=6)), x[:2], tmp_path / "before.onnx")
    module, _ = dropped(keep=3)
    after = export(module, x[:2], tmp_path / "after.onnx")
    assert initializer_elements(after) < 0.55 * initializer_elements(before)
    np.testing.assert_allclose(
        run_onnx(tmp_path / "after.onnx", x[:5]), outputs_of(module, x[:5]), rtol=1e-4, atol=1e-5
    )


def test_a_sequential_by_path():
    layers = [nn.Linear(16, 16) for _ in range(4)]
    module = nn.Sequential(nn.Sequential(*layers), nn.Linear(16, 4))
    module, _result = dropped(module, keep=2, path="0")
    assert list(module[0].children()) == [layers[0], layers[3]]


def test_nothing_to_drop_is_said():
    _, result = dropped(keep=6)
    assert (result.changed, str(result.refusals[0])) == (0, "blocks: it has 6 blocks, keep=6")


def test_errors():
    with pytest.raises(PassError, match="path='stem' is no ModuleList or Sequential; available: none"):
        dropped(seeded(Cnn), keep=1, path="stem")
    with pytest.raises(PassError, match=r"0 containers .* name one with path="):
        dropped(seeded(Cnn), keep=1)

    class Two(Transformer):
        def __init__(self):
            super().__init__()
            self.more = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))

    with pytest.raises(PassError, match=r"2 containers .*\(blocks, more\)"):
        dropped(seeded(Two), keep=1)

    class Shrinking(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.ModuleList(nn.Linear(16 - i, 15 - i) for i in range(3))

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x

    with pytest.raises(PassError, match="shapes differ"):
        dropped(seeded(Shrinking), keep=2, choose="influence", path="steps")
