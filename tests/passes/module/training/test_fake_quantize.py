import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Cnn, Mlp, Task, outputs_of, same_weights, seeded, weights_of

from enginery.errors import PassError
from enginery.passes.module.finish import finish
from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.recover import Recover
from enginery.passes.module.training.fake_quantize import fake_quantized, round_input, round_weight


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40), st.integers(2, 8))
def test_inputs_move_by_at_most_half_a_step_and_zero_stays_zero(values, bits):
    x = torch.tensor([0.0, *values])
    rounded = round_input(x, bits)
    step = (float(x.max().clamp_min(0)) - float(x.min().clamp_max(0))) / (2**bits - 1)
    assert float(rounded[0]) == 0.0
    assert float((rounded - x).abs().max()) <= step * 1.01 + 1e-6
    assert len(rounded.unique()) <= 2**bits


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 2, 2)])
def test_weights_have_one_symmetric_scale_for_each_output_channel(shape):
    weight = torch.randn(shape) * torch.logspace(-2, 2, 6).reshape(-1, *[1] * (len(shape) - 1))
    rounded = round_weight(weight, 8)
    scale = weight.flatten(1).abs().amax(1) / 127
    codes = rounded.flatten(1) / scale[:, None]
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert float(codes.abs().max()) == pytest.approx(127, rel=1e-4)


def test_gradients_pass_straight_through():
    x = torch.randn(8, requires_grad=True)
    round_input(x, 4).sum().backward()
    assert torch.equal(x.grad, torch.ones(8))


@pytest.mark.parametrize(("kind", "build"), [("mlp", Mlp), ("cnn", Cnn)])
def test_inside_the_block_answers_are_rounded_and_after_it_nothing_is_left(kind, build):
    x, module = Task(kind).x[:8], seeded(build)
    before, answers = weights_of(module), outputs_of(module, x)
    with fake_quantized(module, 4):
        rounded = outputs_of(module, x)
    assert 0.01 < abs(rounded - answers).max() / abs(answers).max() < 1
    assert (outputs_of(module, x) == answers).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any("forward" in vars(layer) for layer in module.modules())


def test_training_for_two_bits_pays_at_two_bits():
    task = Task("mlp")
    plain, _ = Recover(epochs=15, lr=0.01).apply(seeded(Mlp), task.context())
    state = weights_of(plain)

    def scored_at_two_bits(module):
        with fake_quantized(module, 2):
            return task.accuracy(module)

    before = scored_at_two_bits(plain)
    module = seeded(Mlp)
    module.load_state_dict(state)
    module, result = Recover(epochs=20, lr=0.01, quantize="int8", bits=2).apply(module, task.context())
    assert scored_at_two_bits(module) > before + 0.05
    assert result.details["metrics"][0] == pytest.approx(before, abs=1e-6), "the metric is measured rounded"


def test_masks_hold_and_the_seed_decides():
    task, made = Task("mlp"), []
    for _ in range(2):
        module, _ = PruneWeights(ratio=0.5, scope="layer").apply(seeded(Mlp), task.context())
        module, _ = Recover(epochs=2, quantize="int8").apply(module, task.context())
        made.append(finish(module))
    assert same_weights(*made)
    assert float((made[0].second.weight == 0).float().mean()) >= 0.5


def test_a_module_without_such_layers_is_an_error():
    with pytest.raises(PassError, match="no linear or convolution layer"), fake_quantized(torch.nn.ReLU(), 8):
        pass
