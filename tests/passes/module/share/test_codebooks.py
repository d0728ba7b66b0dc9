import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mlp, Task, outputs_of, seeded

from enginery.passes.module.finish import finish
from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.share.codebooks import ShareWeights
from enginery.passes.module.share.kmeans import assign, kmeans


def shared(module=None, **options):
    module, result = ShareWeights(**({"least": 1} | options)).apply(module or seeded(Mlp), Task("mlp").context())
    return module, result


@pytest.mark.parametrize("codes", [2, 16, 256])
def test_every_tensor_gets_few_values_near_its_own(codes):
    module, result = shared(codes=codes)
    module = finish(module)
    for name in ("first", "second", "last"):
        weight = module.get_submodule(name).weight.detach()
        assert len(weight.unique()) <= codes
    original = seeded(Mlp).second.weight.detach()
    error = float((module.second.weight.detach() - original).norm() / original.norm())
    assert result.details["codebooks"]["second"]["relative_error"] == pytest.approx(error, rel=1e-3)
    assert error < 2 / codes
    assert "computes as before" in result.details["gain"]


def test_one_codebook_for_the_model():
    module, _ = shared(codes=16, scope="model")
    module = finish(module)
    assert len(torch.cat([module.first.weight.flatten(), module.second.weight.flatten()]).unique()) <= 16


def test_existing_codebooks_are_recognized_and_kept_bit_for_bit():
    module, task = seeded(Mlp), Task("mlp")
    with torch.no_grad():
        module.second.weight.copy_((module.second.weight * 20).round() / 20)
    expected, values = outputs_of(module, task.x), len(module.second.weight.unique())
    module, result = shared(module, codes=32, layers="second")
    assert result.details["recognized"] == {"second": values}
    assert result.changed == 0
    assert (outputs_of(finish(module), task.x) == expected).all()


def test_a_second_run_recognizes_the_first():
    module, _ = shared(codes=16)
    module = finish(module)
    _, result = shared(module, codes=16)
    assert set(result.details["recognized"]) == {"first", "second", "last"}
    assert result.changed == 0


def test_pruned_zeros_stay_zero():
    task = Task("mlp")
    module, _ = PruneWeights(ratio=0.7, scope="layer").apply(seeded(Mlp), task.context())
    zeros = module.second.weight == 0
    module, _ = shared(module, codes=8)
    assert torch.equal(module.second.weight == 0, zeros)
    assert len(module.second.weight.unique()) <= 8


def test_refusals():
    module = seeded(Mlp)
    module.tied = torch.nn.Linear(32, 32)
    module.tied.weight = module.second.weight
    _, result = shared(module, least=500)
    assert {r.node: r.reason for r in result.refusals} == {
        "second": "its weight is shared with tied.weight",
        "tied": "its weight is shared with second.weight",
        "last": "its weight has fewer than least=500 elements",
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), st.integers(2, 8))
def test_centroids_are_the_means_of_the_values_nearest_to_them(values, k):
    given = torch.tensor(values)
    centroids = kmeans(given, k)
    index = assign(given, centroids)
    assert 1 <= len(centroids) <= k
    assert bool((centroids.diff() > 0).all())
    distances = (given.double()[:, None] - centroids[None]).abs()
    torch.testing.assert_close(distances.gather(1, index[:, None])[:, 0], distances.amin(1), rtol=0, atol=1e-9)
    if len(given.unique()) <= k:
        assert torch.equal(centroids[index], given.double())
