import numpy as np
import pytest
from datasets import BATCH, VECTOR, batches, opened

from enginery.errors import DataError
from enginery.pipeline.data import open_data
from enginery.pipeline.recipe import Data, Dim, Tensor


def save(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder


def vectors(count=10):
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_batch(tmp_path, value):
    x = vectors()
    x[6, 1] = value
    with pytest.raises(DataError) as caught:
        batches(save(tmp_path, x=x), npz="data.npz")
    text = str(caught.value)
    assert text.startswith(
        "npz data.npz, batch 2 (data.npz, samples 4-7), input 'x' holds 1 values that are not finite"
    )
    assert "at index [2, 1]" in text


def test_labels_that_are_not_finite(tmp_path):
    save(tmp_path, x=vectors(2), labels=np.array([0.5, np.nan]))
    with pytest.raises(DataError, match=r"batch 1 .*labels holds 1 values that are not finite"):
        batches(tmp_path, npz="data.npz")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (vectors().astype(np.float64), "'x' has dtype float64; expected float32"),
        (vectors()[:, :2], r"'x' has shape \[4, 2\]; expected x: float32\[batch, 3\]"),
        (vectors()[:, :, None], r"'x' has shape \[4, 3, 1\]"),
    ],
)
def test_dtype_rank_and_fixed_sizes(tmp_path, x, message):
    with pytest.raises(DataError, match=rf"npz data\.npz, batch 1 .*{message}"):
        batches(save(tmp_path, x=x), npz="data.npz")


def test_sizes_outside_the_declared_range(tmp_path):
    save(tmp_path, x=vectors())
    with pytest.raises(DataError, match=r"Dimension 'batch' of input 'x' is 9; .* 1 to 8"):
        batches(tmp_path, npz="data.npz", batch=9)


def test_batches_that_no_engine_is_served_may_be_of_any_size(tmp_path):
    save(tmp_path, x=vectors(), labels=np.arange(10))
    dims = {"batch": Dim(min=2, opt=4, max=8)}
    data = open_data(Data(npz="data.npz", batch=9), tmp_path, VECTOR, dims, served=False)
    assert [len(batch.labels) for batch in data.batches()] == [9, 1]


def test_one_name_has_one_size(tmp_path):
    np.savez(tmp_path / "data.npz", a=np.zeros((2, 5), np.float32), b=np.zeros((2, 6), np.float32))
    pair = {name: Tensor(shape=("batch", "seq")) for name in "ab"}
    data = opened(tmp_path, pair, {**BATCH, "seq": Dim(min=1, opt=5, max=9)}, npz="data.npz")
    with pytest.raises(DataError, match=r"Dimension 'seq' is 5 in input 'a' and 6 in input 'b'"):
        list(data.batches())


def test_a_remainder_that_the_model_cannot_take(tmp_path):
    save(tmp_path, x=vectors(10))
    data = opened(tmp_path, VECTOR, {"batch": Dim(min=4, opt=4, max=4)}, npz="data.npz")
    with pytest.raises(DataError, match=r"batch 3 .* is 2; .* 4 to 4"):
        list(data.batches())


def test_no_sample_at_all(tmp_path):
    with pytest.raises(DataError, match=r"gave no batch\. It holds no sample\."):
        batches(save(tmp_path, x=vectors(0)), npz="data.npz")


def test_the_digest_covers_what_the_batches_depend_on(tmp_path):
    save(tmp_path, x=vectors())
    digests = {
        opened(tmp_path, npz="data.npz").digest(),
        opened(tmp_path, npz="data.npz", samples=3).digest(),
        opened(tmp_path, npz="data.npz", batch=2).digest(),
        opened(tmp_path, None, {"batch": Dim(min=1, opt=4, max=9)}, npz="data.npz").digest(),
        opened(save(tmp_path, x=vectors() + 1), npz="data.npz").digest(),
    }
    assert len(digests) == 5


def test_facts_are_plain_and_name_no_place(tmp_path):
    import json

    facts = opened(save(tmp_path, x=vectors()), npz="data.npz").facts()
    assert str(tmp_path) not in json.dumps(facts)


def test_the_number_of_batches_is_known_where_it_costs_nothing(tmp_path):
    assert opened(save(tmp_path, x=vectors(10)), npz="data.npz").count() == 3
    assert opened(tmp_path, npz="data.npz", samples=5).count() == 2
    (tmp_path / "data.py").write_text("def batches():\n    yield {}\n")
    assert opened(tmp_path, python="data.py:batches").count() is None
