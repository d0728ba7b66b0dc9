from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enginery.errors import IntegrityError
from enginery.pipeline.npz import read_npz, write_npz

DTYPES = st.sampled_from([np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_])
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.", min_size=1, max_size=12)


@given(st.dictionaries(NAMES, DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0)))))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    write_npz(path, arrays)
    found = read_npz(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_equal_arrays_are_equal_bytes_at_any_time_and_in_any_order(tmp_path: Path) -> None:
    one, two = np.arange(6.0).reshape(2, 3), np.ones(3, np.int64)
    write_npz(tmp_path / "a.npz", {"x": one, "y": two})
    time.sleep(0.01)
    write_npz(tmp_path / "b.npz", {"y": two, "x": np.asfortranarray(one)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_pickled_objects_and_damaged_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("pickled", "text", "empty", "absent"):
        with pytest.raises(IntegrityError, match=r"is not an \.npz file of plain arrays"):
            read_npz(tmp_path / f"{name}.npz")
