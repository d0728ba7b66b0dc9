import sys

import numpy as np
import pytest
import torch
from nets import Cnn, Mlp, Task, Transformer, export, initializer_elements, outputs_of, run_onnx, same_weights, seeded
from torch import nn

from enginery.errors import MissingDependencyError, PassError
from enginery.passes.module.figures import count_macs
from enginery.passes.module.prune.channels import PruneChannels
from enginery.passes.module.prune.weights import PruneWeights

CRITERIA = ("l1", "l2", "bn-scale", "taylor", "random")


def pruned(kind="cnn", module=None, context=None, **options):
    module = module if module is not None else seeded({"cnn": Cnn, "mlp": Mlp, "transformer": Transformer}[kind])
    return PruneChannels(**options).apply(module, context or Task(kind).context())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor", "random"])
def test_coupled_layers_shrink_together_and_the_graph_is_smaller(tmp_path, criterion, scope):
    task = Task("cnn")
    module, result = pruned(ratio=0.5, criterion=criterion, scope=scope, round_to=1)
    assert result.changed > 0
    assert outputs_of(module, task.x[:3]).shape == (3, 4)
    assert module.stem.out_channels == module.norm.num_features == module.branch.out_channels
    assert module.depthwise.groups == module.depthwise.out_channels == module.left.in_channels
    before = export(seeded(Cnn), task.x[:2], tmp_path / "before.onnx")
    after = export(module, task.x[:2], tmp_path / "after.onnx")
    assert initializer_elements(after) < 0.7 * initializer_elements(before)
    np.testing.assert_allclose(
        run_onnx(tmp_path / "after.onnx", task.x[:5]), outputs_of(module, task.x[:5]), rtol=1e-4, atol=1e-5
    )


def test_ratio_of_every_layer_is_exact():
    module, result = pruned("mlp", ratio=0.25, scope="layer", round_to=1)
    assert (module.first.out_features, module.second.out_features) == (24, 24)
    assert result.details["channels"] == {"first": [32, 24], "second": [32, 24]}


def test_the_weakest_channels_go_and_the_rest_compute_as_before():
    """Channels that are zero can be removed without any change of the answers."""
    task, module = Task("mlp"), seeded(Mlp)
    with torch.no_grad():
        for layer, reader, dead in (
            (module.first, module.second, [1, 5, 9, 13]),
            (module.second, module.last, [0, 2, 4, 6]),
        ):
            layer.weight[dead], layer.bias[dead] = 0, 0
            reader.weight[:, dead] = 0
    expected = outputs_of(module, task.x)
    module, result = pruned(module=module, context=task.context(), ratio=4 / 32, round_to=1)
    assert result.changed == 8
    np.testing.assert_allclose(outputs_of(module, task.x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("macs", [0.3, 0.5, 0.8])
def test_macs_are_reached_and_not_undershot_by_much(macs):
    task = Task("cnn")
    whole = count_macs(seeded(Cnn), task.context().example)
    module, _ = pruned(macs=macs, round_to=1)
    left = count_macs(module, task.context().example) / whole
    assert macs - 0.1 < left <= macs


def test_widths_are_rounded_and_limited():
    module, _ = pruned("mlp", ratio=0.6, scope="layer", round_to=8)
    assert module.first.out_features == 16
    module, _ = pruned("mlp", ratio=0.95, scope="layer", round_to=1, limit=0.5)
    assert module.first.out_features == 16
    module, _ = pruned("mlp", ratio=0.95, scope="layer", round_to=8)
    assert module.first.out_features == 8


def test_batch_normalization_scale_decides_where_there_is_one():
    module = seeded(Cnn)
    with torch.no_grad():
        module.norm.weight[:8] = 0.01
    module, result = pruned(module=module, ratio=0.5, criterion="bn-scale", scope="layer", round_to=1)
    assert module.norm.num_features == 8
    assert float(module.norm.weight.detach().min()) > 0.5
    assert "hidden: criterion=bn-scale has no score for its channels" in list(map(str, result.refusals))


def test_seeded():
    one, _ = pruned(ratio=0.5, criterion="random")
    other, _ = pruned(ratio=0.5, criterion="random")
    assert same_weights(one, other)


def test_what_may_not_shrink_is_kept_with_a_reason():
    _, result = pruned("transformer", ratio=0.5)
    reasons = {refusal.node: refusal.reason for refusal in result.refusals}
    assert reasons["last"] == "its channels are an output of the model"
    assert reasons["blocks.0.attention.v_proj"].endswith("heads by blocks.0.attention; use prune-heads")
    # The residual stream begins at the model's input, which is as wide as it is.
    assert reasons["blocks.3.down"].startswith("it cannot shrink: after the cut the module does not run")
    assert {name.rpartition(".")[2] for name in result.details["channels"]} == {"up"}


def test_grouped_convolutions_and_bare_parameters_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4)
            self.c, self.scale = nn.Conv2d(16, 16, 1), nn.Parameter(torch.ones(1, 16, 1, 1))
            self.last = nn.Linear(16, 4)

        def forward(self, x):
            return self.last((self.c(self.b(self.a(x))) * self.scale).mean((2, 3)))

    _, result = pruned(module=seeded(Odd), context=Task("cnn").context(), ratio=0.5)
    reasons = {refusal.node: refusal.reason for refusal in result.refusals}
    assert reasons["a"] == "its channels meet the grouped convolution b"
    assert reasons["c"] == "its channels meet a bare parameter of the model, whose meaning is unknown"
    assert result.changed == 0


def test_a_concatenation_that_is_flattened_is_refused():
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Linear(16 * 64, 4)

        def forward(self, x):
            return self.last(torch.cat([self.left(x), self.right(x)], 1).flatten(1))

    _, result = pruned(module=seeded(Flattened), context=Task("cnn").context(), ratio=0.5, round_to=1)
    reasons = {refusal.node: refusal.reason for refusal in result.refusals}
    assert reasons["left"] == "its channels meet a concatenation whose offsets torch-pruning does not know"
    assert result.changed == 0


def test_the_cut_is_proved_against_the_silenced_module(monkeypatch):
    _, result = pruned(ratio=0.5, round_to=1)
    assert result.details["proved"] < 1e-5
    _, result = pruned("transformer", ratio=0.5, layers=r"blocks\.\d\.up", round_to=1)
    assert result.details["proved"] < 1e-5

    from enginery.passes.module.prune import dependency

    right = dependency.cut

    def wrong(dependencies, module, drop):
        right(dependencies, module, {root: [0, *gone[1:]] for root, gone in drop.items()})

    monkeypatch.setattr(dependency, "cut", wrong)
    with pytest.raises(PassError, match=r"off by .* of its scale from the module with the same channels silenced"):
        pruned(ratio=0.5, round_to=1)


def test_normalization_over_channels_cannot_be_proved_and_says_so():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4)

        def forward(self, x):
            return self.last(self.norm(self.first(x)))

    module, result = pruned("mlp", module=seeded(Normed), ratio=0.5)
    assert module.norm.normalized_shape == (16,)
    assert result.details["proved"] is None


def test_only_named_layers_shrink():
    module, result = pruned("mlp", ratio=0.5, layers="second")
    assert (module.first.out_features, module.second.out_features) == (32, 16)
    assert list(result.details["channels"]) == ["second"]


def test_errors():
    task = Task("cnn")
    with pytest.raises(PassError, match="list structured pruning before"):
        pruned(module=PruneWeights(ratio=0.5).apply(seeded(Cnn), task.context())[0], ratio=0.5)
    with pytest.raises(PassError, match="matches no linear or convolution"):
        pruned(ratio=0.5, layers="nothing")
    with pytest.raises(PassError, match=r"macs=0.01 cannot be reached"):
        pruned(macs=0.01)
    with pytest.raises(PassError, match="taylor reads gradients"):
        pruned(ratio=0.5, criterion="taylor", context=task.context(batches=None))
    with pytest.raises(PassError, match="has no labels"):
        pruned(ratio=0.5, criterion="taylor", context=task.context(batches=task.unlabelled))
    with pytest.raises(PassError, match="no group has a BatchNorm"):
        pruned("mlp", ratio=0.5, criterion="bn-scale")


def test_without_torch_pruning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingDependencyError, match=r"enginery\[prune\]"):
        pruned(ratio=0.5)
