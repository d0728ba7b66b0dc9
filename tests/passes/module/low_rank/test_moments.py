import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mlp, seeded
from torch import nn

from enginery.passes.module.low_rank.moments import Moments, collect, rows, within_budget


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_streaming_moments_are_those_of_all_rows(sizes, offset):
    data = torch.from_numpy(np.random.default_rng(0).standard_normal((sum(sizes), 3)) + offset)
    moments = Moments.zeros(3)
    for part in data.split(sizes):
        moments.update(part)
    torch.testing.assert_close(moments.mean, data.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.covariance, torch.cov(data.T, correction=0).reshape(3, 3), rtol=1e-6, atol=1e-8)


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
    assert found["first"].count == 10
    np.testing.assert_allclose(found["first"].mean.numpy(), x.mean(0), rtol=1e-5, atol=1e-6)
    assert not module.first._forward_pre_hooks


def test_layers_are_split_by_the_memory_that_their_covariances_need():
    layers = [(str(i), nn.Linear(10, 2)) for i in range(5)]
    assert [len(part) for part in within_budget(layers, 2 * 800)] == [2, 2, 1]
    assert [len(part) for part in within_budget(layers, 1)] == [1] * 5
