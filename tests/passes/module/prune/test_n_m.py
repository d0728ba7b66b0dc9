import pytest
import torch
from nets import Cnn, Mlp, Task, seeded

from enginery.passes.module.prune.n_m import PruneNM


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8)])
def test_every_group_keeps_its_n_largest(n, m):
    original = seeded(Mlp).second.weight.detach()
    module, result = PruneNM(n=n, m=m).apply(seeded(Mlp), Task("mlp").context())
    groups = module.second.weight.detach().reshape(-1, m)
    assert ((groups != 0).sum(1) == n).all()
    dropped = original.reshape(-1, m).abs().masked_fill(groups != 0, 0).amax(1)
    kept = groups.abs().masked_fill(groups == 0, torch.inf).amin(1)
    assert (dropped <= kept).all()
    assert result.details["sparsity"]["second"] == pytest.approx(1 - n / m)


def test_convolutions_are_grouped_along_their_input_channels():
    module, _ = PruneNM(layers="branch|right").apply(seeded(Cnn), Task("cnn").context())
    for layer in (module.branch, module.right):
        groups = layer.weight.detach().movedim(1, -1).reshape(-1, 4)
        assert ((groups != 0).sum(1) == 2).all()


def test_equal_magnitudes_keep_the_first():
    module = seeded(Mlp)
    with torch.no_grad():
        module.second.weight.fill_(0.5)
    module, _ = PruneNM().apply(module, Task("mlp").context())
    assert (module.second.weight_mask.reshape(-1, 4) == torch.tensor([1.0, 1.0, 0.0, 0.0])).all()


def test_refuses_an_input_that_m_does_not_divide():
    _, result = PruneNM().apply(seeded(Cnn), Task("cnn").context())
    assert list(map(str, result.refusals)) == [
        "stem: its input dimension 3 is not divisible by 4",
        "depthwise: its input dimension 1 is not divisible by 4",
    ]
    assert "dense runtime gains nothing" in result.details["gain"]
