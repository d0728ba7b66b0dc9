import tracemalloc
import zipfile

import numpy as np
import pytest
from datasets import BATCH, batches, opened

from enginery.errors import DataError
from enginery.pipeline.recipe import Dim, Tensor

STATE = {
    "input": Tensor(shape=("batch", "time")),
    "state": Tensor(shape=(2, "batch", 5)),
    "rate": Tensor(dtype="int64", shape=()),
}
DIMS = {**BATCH, "time": Dim(min=1, opt=7, max=9)}


def x(count=10):
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_come_in_batches_with_their_labels(tmp_path, save):
    save(tmp_path / "a.npz", x=x(), labels=np.arange(10))
    got = batches(tmp_path, npz="a.npz")
    assert [len(batch.inputs["x"]) for batch in got] == [4, 4, 2]
    assert np.array_equal(np.concatenate([batch.inputs["x"] for batch in got]), x())
    assert np.array_equal(np.concatenate([batch.labels for batch in got]), np.arange(10))


def test_arrays_can_be_written_to(tmp_path):
    np.savez(tmp_path / "a.npz", x=x())
    batches(tmp_path, npz="a.npz")[0].inputs["x"][0] = 1


@pytest.mark.parametrize(("samples", "sizes"), [(5, [4, 1]), (4, [4]), (12, [4, 4, 2, 2])])
def test_a_folder_is_read_in_order_of_names_up_to_the_limit(tmp_path, samples, sizes):
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "b.npz", x=x(3) + 100)
    np.savez(tmp_path / "d" / "a.npz", x=x(10))
    got = batches(tmp_path, npz="d", samples=samples)
    assert [len(batch.inputs["x"]) for batch in got] == sizes
    assert got[0].inputs["x"][0, 0] == 0


def test_samples_along_another_axis_and_arrays_that_all_share(tmp_path):
    arrays = {
        "input": np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32),
        "state": np.arange(60, dtype=np.float32).reshape(2, 6, 5),
        "rate": np.array(16000),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    first, second = opened(tmp_path, STATE, DIMS, npz="a.npz").batches()
    assert first.inputs["state"].shape == (2, 4, 5)
    assert np.array_equal(second.inputs["state"], arrays["state"][:, 4:])
    assert second.inputs["rate"] == 16000
    cut = list(opened(tmp_path, STATE, DIMS, npz="a.npz", samples=5).batches())[1]
    assert cut.inputs["state"].shape == (2, 1, 5)


def test_a_fixed_batch_takes_its_own_number_of_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=x(6))
    got = list(opened(tmp_path, {"x": Tensor(shape=(2, 3))}, {}, npz="a.npz").batches())
    assert [batch.inputs["x"].shape for batch in got] == [(2, 3)] * 3


def test_pairs_share_a_label(tmp_path):
    np.savez(tmp_path / "a.npz", x=x(10), labels=np.arange(5.0))
    got = batches(tmp_path, npz="a.npz")
    assert [batch.labels.tolist() for batch in got] == [[0, 1], [2, 3], [4]]
    assert [b.labels.tolist() for b in batches(tmp_path, npz="a.npz", samples=6)] == [[0, 1], [2]]


def test_memory_holds_a_batch_and_not_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4000, 3000), np.float32))
    inputs = {"x": Tensor(shape=("batch", 3000))}
    tracemalloc.start()
    assert sum(len(batch.inputs["x"]) for batch in opened(tmp_path, inputs, npz="a.npz").batches()) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000, f"{peak} bytes for batches of 48 kB"


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", y=x())
    with pytest.raises(DataError, match=r"a\.npz has no array for the inputs \['x'\]; it has \['y'\]"):
        batches(tmp_path, npz="a.npz")


def test_arrays_of_different_lengths(tmp_path):
    pair = {name: Tensor(shape=("batch", 3)) for name in "ab"}
    np.savez(tmp_path / "a.npz", a=x(3), b=x(4))
    with pytest.raises(DataError, match=r"different numbers of samples: \{'a': 3, 'b': 4\}"):
        batches(tmp_path, pair, npz="a.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], object))
    with pytest.raises(DataError, match=r"'x' of a\.npz holds Python objects"):
        batches(tmp_path, npz="a.npz")


def test_fortran_order_is_refused_with_the_remedy(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(x()))
    with pytest.raises(DataError, match=r"Fortran order; save np\.ascontiguousarray"):
        batches(tmp_path, npz="a.npz")


def test_an_array_that_ends_early(tmp_path):
    np.savez(tmp_path / "a.npz", x=x())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        raw = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", raw[:-8])
    with pytest.raises(DataError, match=r"'x' of a\.npz ends early"):
        batches(tmp_path, npz="a.npz")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.npz is not an \.npz file"):
        batches(tmp_path, npz="a.npz")


def test_absent_data(tmp_path):
    with pytest.raises(DataError, match=r"There is no data .*absent\.npz"):
        opened(tmp_path, npz="absent.npz")
