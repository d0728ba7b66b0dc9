import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mlp, seeded
from torch import nn

from enginery.passes.module.low_rank.moments import Moments, collect, importance, rows, within_budget


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_streaming_moments_are_those_of_all_rows(sizes, offset):
    random = np.random.default_rng(0)
    data = torch.from_numpy(random.standard_normal((sum(sizes), 3)) + offset)
    weights = torch.from_numpy(random.random(sum(sizes)))
    moments = Moments.zeros(3)
    for part, weight in zip(data.split(sizes), weights.split(sizes), strict=True):
        moments.update(part, weight)
    expected = np.cov(data.numpy().T, ddof=0, aweights=weights.numpy())
    np.testing.assert_allclose(moments.mean, np.average(data, 0, weights), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-6, atol=1e-8)


def test_vectors_count_by_the_inverse_of_their_output_so_that_a_massive_one_does_not_take_the_rank():
    layer = nn.Linear(4, 3)
    vectors = torch.randn(5, 4, dtype=torch.float64)
    louder = vectors * torch.tensor([1, 1, 100, 1, 1])[:, None]
    found, quiet = importance(layer, louder), importance(layer, vectors)
    torch.testing.assert_close(found[2] * 100**2, quiet[2])
    torch.testing.assert_close(found[[0, 1, 3, 4]], quiet[[0, 1, 3, 4]])


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_rows_of_a_convolution_times_its_weight_are_its_output(stride, padding, dilation):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride, padding, dilation, bias=False)
    x = torch.randn(2, 3, 8, 7)
    expected = conv(x).movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(rows(conv, x) @ conv.weight.flatten(1).T, expected)


def test_collect_reads_what_the_layers_read():
    x = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    module = seeded(Mlp)
    found = collect(module, [("first", module.first)], [{"x": x[:4]}, {"x": x[4:]}])
    weights = 1 / ((x @ module.first.weight.detach().numpy().T) ** 2).sum(1)
    assert found["first"].weight == pytest.approx(weights.sum(), rel=1e-4)
    np.testing.assert_allclose(found["first"].mean.numpy(), weights @ x / weights.sum(), rtol=1e-4, atol=1e-5)
    assert not module.first._forward_pre_hooks


def test_layers_are_split_by_the_memory_that_their_covariances_need():
    layers = [(str(i), nn.Linear(10, 2)) for i in range(5)]
    assert [len(part) for part in within_budget(layers, 2 * 800)] == [2, 2, 1]
    assert [len(part) for part in within_budget(layers, 1)] == [1] * 5
