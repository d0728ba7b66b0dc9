import numpy as np
import pytest
import torch
from nets import Cnn, Mlp, Task, export, initializer_elements, outputs_of, run_onnx, seeded
from torch import nn

from enginery.errors import DataError, PassError
from enginery.passes.module.low_rank.factorize import Factorize


def low_rank_mlp(rank=4):
    """An Mlp whose second weight has rank `rank`."""
    module = seeded(lambda: Mlp(32))
    with torch.no_grad():
        module.second.weight.copy_(torch.randn(32, rank) @ torch.randn(rank, 32) / 4)
    return module


def correlated(samples=256):
    """Inputs with a large mean and a few loud directions, as activations of real networks have."""
    random = np.random.default_rng(0)
    loud = random.standard_normal((4, 16)) * np.array([[8.0], [4.0], [2.0], [1.0]])
    return (random.standard_normal((samples, 4)) @ loud + 3 + 0.1 * random.standard_normal((samples, 16))).astype(
        np.float32
    )


def context_on(x):
    return Task("mlp").context(example={"x": x[:2]}, batches=lambda: iter([({"x": x}, None)]))


@pytest.mark.parametrize("aware", [True, False])
def test_a_weight_of_low_rank_is_found_and_loses_nothing(tmp_path, aware):
    task, module = Task("mlp"), low_rank_mlp()
    expected = outputs_of(module, task.x)
    module, result = Factorize(rank=4, layers="second", aware=aware).apply(module, task.context())
    assert result.changed == 1
    assert result.details["layers"]["second"]["rank"] == 4
    np.testing.assert_allclose(outputs_of(module, task.x), expected, rtol=1e-4, atol=1e-4)
    before = export(low_rank_mlp(), task.x[:2], tmp_path / "before.onnx")
    after = export(module, task.x[:2], tmp_path / "after.onnx")
    assert initializer_elements(before) - initializer_elements(after) == 32 * 32 - 2 * 4 * 32
    np.testing.assert_allclose(run_onnx(tmp_path / "after.onnx", task.x[:5]), expected[:5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(bias, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, stride=stride, padding=1, dilation=1, bias=bias)
    with torch.no_grad():
        conv.weight.copy_((torch.randn(16, 3) @ torch.randn(3, 72)).reshape(conv.weight.shape))
    module, x = nn.Sequential(conv).eval(), np.random.default_rng(0).standard_normal((4, 8, 9, 7)).astype(np.float32)
    expected = outputs_of(module, x)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = module

        def forward(self, x):
            return self.body(x)

    wrapped, result = Factorize(rank=3).apply(Named(), context_on(x))
    assert result.changed == 1
    np.testing.assert_allclose(outputs_of(wrapped, x), expected, rtol=1e-3, atol=1e-3)
    assert [tuple(p.shape) for p in wrapped.parameters()][:2] == [(3, 8, 3, 3), (16, 3, 1, 1)]


def test_aware_is_nearer_than_plain_at_the_same_rank():
    x = correlated()
    expected = outputs_of(seeded(Mlp), x)
    errors = {}
    for aware in (True, False):
        module, _ = Factorize(rank=4, aware=aware, layers="first").apply(seeded(Mlp), context_on(x))
        errors[aware] = float(np.square(outputs_of(module, x) - expected).mean())
    assert errors[True] < 0.1 * errors[False]


def test_the_bias_takes_over_the_mean():
    x = correlated()
    layer = nn.Linear(16, 16, bias=False)

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)

    module = Single().eval()
    answers = outputs_of(module, x)
    weights = 1 / (answers**2).sum(1)
    expected = np.average(answers, 0, weights)
    module, _ = Factorize(rank=1).apply(module, context_on(x))
    np.testing.assert_allclose(np.average(outputs_of(module, x), 0, weights), expected, rtol=1e-3, atol=1e-3)


def test_energy_reports_what_each_layer_keeps():
    _, result = Factorize(energy=0.8, aware=False).apply(low_rank_mlp(), Task("mlp").context())
    kept = result.details["layers"]["second"]
    assert kept["rank"] <= 4
    assert kept["energy"] >= 0.8


@pytest.mark.parametrize("rule", [{"budget": 0.5}, {"share": 0.5}])
def test_sizes_stay_within_the_asked_part(rule):
    module, _ = Factorize(**rule, aware=False, layers="first|second").apply(seeded(Mlp), Task("mlp").context())
    weights = sum(p.numel() for n, p in module.named_parameters() if "last" not in n and p.dim() > 1)
    assert 0.4 * (16 * 32 + 32 * 32) < weights <= 0.5 * (16 * 32 + 32 * 32)


def test_a_budget_goes_where_it_costs_least():
    _, result = Factorize(budget=0.4, aware=False, layers="first|second").apply(low_rank_mlp(), Task("mlp").context())
    assert result.details["layers"]["second"]["energy"] > 0.99


def test_refusals():
    _, result = Factorize(rank=16, aware=False).apply(seeded(Mlp), Task("mlp").context())
    assert {r.node: r.reason for r in result.refusals}["second"] == (
        "at rank 16 the two factors are not smaller than the weight"
    )
    _, result = Factorize(rank=1).apply(seeded(Cnn), Task("cnn").context())
    assert [str(r) for r in result.refusals] == ["depthwise: it is a grouped convolution; its blocks are small already"]


def test_paddings_that_are_not_measured():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, padding="same")
            self.b = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
            self.c = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    task = Task("cnn")
    _, result = Factorize(rank=1).apply(seeded(Padded), task.context())
    assert [r.node for r in result.refusals] == ["a", "b"]
    assert result.changed == 1
    module, result = Factorize(rank=1, aware=False).apply(seeded(Padded), task.context())
    assert result.changed == 3
    assert outputs_of(module, task.x[:2]).shape == (2, 8, 8, 8)


def test_errors():
    with pytest.raises(PassError, match=r"aware=true weighs errors by real inputs"):
        Factorize(rank=1).apply(seeded(Mlp), Task("mlp").context(batches=None))
    with pytest.raises(DataError, match="no data reached first"):
        Factorize(rank=1).apply(seeded(Mlp), Task("mlp").context(batches=lambda: iter([])))


def test_only_so_many_batches_are_read():
    read = []

    def batches():
        for index, pair in enumerate(Task("mlp").batches()):
            read.append(index)
            yield pair

    Factorize(rank=1, samples=3).apply(seeded(Mlp), Task("mlp").context(batches=batches))
    assert read == [0, 1, 2]


def test_sensitivity_spends_the_budget_where_the_answers_need_it():
    """`second` has rank 4, so that a small share of it costs nothing; `first` needs all it can get."""
    task, layers = Task("mlp"), "first|second"
    answers = outputs_of(low_rank_mlp(), task.x)
    module, result = Factorize(budget=0.6, by="sensitivity", aware=False, layers=layers).apply(
        low_rank_mlp(), task.context()
    )
    assert result.details["layers"]["second"]["rank"] in (4, 5, 6)
    assert {r.node: r.reason for r in result.refusals}["first"].startswith("at rank 16 the two factors")
    np.testing.assert_allclose(outputs_of(module, task.x), answers, rtol=1e-3, atol=1e-3)
    even, _ = Factorize(share=0.6, aware=False, layers=layers).apply(low_rank_mlp(), task.context())
    assert np.abs(outputs_of(even, task.x) - answers).max() > 0.01


@pytest.mark.parametrize("batches", ["batches", None])
def test_sensitivity_stays_within_the_budget_and_repeats(batches):
    task = Task("cnn")
    context = task.context(batches=getattr(task, batches) if batches else None)

    def made():
        return Factorize(budget=0.5, by="sensitivity", aware=False, probe=2).apply(seeded(Cnn), context)

    module, result = made()
    assert result.changed > 0
    assert result.details["layers"] == made()[1].details["layers"]
    whole, kept = (sum(p.numel() for p in m.parameters() if p.dim() > 1) for m in (seeded(Cnn), module))
    assert kept <= 0.5 * whole + 16 * 9
