from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engines.base import DimRange, TensorSpec
from enginery.errors import StageError
from enginery.pipeline.comparison.shapes import cases, fit, infer_output_specs, odd_size, random_inputs, sizes_of

RANGES = st.tuples(*[st.integers(1, 300)] * 3).map(sorted).map(lambda sizes: DimRange(*sizes))


@given(st.dictionaries(st.sampled_from("abc"), RANGES))
def test_every_dimension_is_seen_at_min_opt_max_and_an_odd_size(dims: dict[str, DimRange]) -> None:
    found = cases(dims)
    sizes = [tuple(sorted(case.sizes.items())) for case in found]
    assert len(set(sizes)) == len(sizes)
    assert len({case.name for case in found}) == len(found)
    for name, dim in dims.items():
        assert {dim.min, dim.opt, dim.max, odd_size(dim)} <= {case.sizes[name] for case in found}


@given(RANGES)
def test_the_odd_size_is_inside_and_new_where_there_is_room(dim: DimRange) -> None:
    size = odd_size(dim)
    assert size in dim
    room = set(range(dim.min + 1, dim.max)) - {dim.opt}
    assert (size in room) == bool(room)
    if any(candidate % 2 for candidate in room):
        assert size % 2 == 1


def test_dimensions_are_also_varied_alone() -> None:
    found = {case.name: case.sizes for case in cases({"batch": DimRange(1, 2, 4), "seq": DimRange(1, 8, 16)})}
    assert found["batch-max"] == {"batch": 4, "seq": 8}
    assert found["seq-min"] == {"batch": 2, "seq": 1}


def test_the_recipes_own_shapes_come_last_and_once() -> None:
    dims = {"batch": DimRange(1, 2, 4), "seq": DimRange(1, 8, 16)}
    found = {case.name: case.sizes for case in cases(dims, [{"seq": 5}, {}, {"batch": 4, "seq": 5}, {"seq": 5}])}
    assert list(found)[-2:] == ["shape-1", "shape-3"]
    assert found["shape-1"] == {"batch": 2, "seq": 5}
    assert found["shape-3"] == {"batch": 4, "seq": 5}


def test_a_model_without_dynamic_dimensions_has_one_case() -> None:
    (case,) = cases({})
    assert (case.name, str(case)) == ("opt", "opt")


def test_real_values_are_cut_and_repeated() -> None:
    spec = TensorSpec("x", "int64", ("batch", "seq", 2))
    array = np.arange(12).reshape(2, 3, 2)
    grown = fit({"x": array}, [spec], {"batch": 3, "seq": 5})["x"]
    np.testing.assert_array_equal(grown[2, :3], array[0])
    np.testing.assert_array_equal(grown[0, 3:], array[0, :2])
    np.testing.assert_array_equal(fit({"x": array}, [spec], {"batch": 1, "seq": 1})["x"], array[:1, :1])


def test_empty_data_cannot_be_fitted() -> None:
    with pytest.raises(StageError, match="empty along 'batch'"):
        fit({"x": np.empty((0, 2))}, [TensorSpec("x", "float64", ("batch", 2))], {"batch": 1})


def test_sizes_are_read_from_feeds() -> None:
    spec = TensorSpec("x", "float32", ("batch", 3, "w"))
    assert sizes_of({"x": np.zeros((2, 3, 7))}, [spec]) == {"batch": 2, "w": 7}


def test_noise_is_seeded_and_integers_stay_in_any_vocabulary() -> None:
    specs = [TensorSpec("x", "float32", ("batch", 3)), TensorSpec("ids", "int64", ("batch",))]
    one, two = (random_inputs(specs, {"batch": 50}, 7) for _ in range(2))
    np.testing.assert_array_equal(one["x"], two["x"])
    assert set(one["ids"]) == {0, 1}


def test_output_dimensions_are_named_after_what_they_follow() -> None:
    seen = [
        ({"batch": b, "seq": s}, {"y": np.zeros((b, s, 4)), "z": np.zeros((b, s - 1)), "n": np.zeros((3,))})
        for b, s in ((2, 5), (1, 8), (4, 3))
    ]
    y, z, n = infer_output_specs(["y", "z", "n"], seen)
    assert y.shape == ("batch", "seq", 4)
    assert z.shape == ("batch", "z_1")
    assert n.shape == (3,)


def test_a_rank_that_changes_is_refused() -> None:
    with pytest.raises(StageError, match="depending on the inputs' sizes"):
        infer_output_specs(["y"], [({"b": 1}, {"y": np.zeros(3)}), ({"b": 2}, {"y": np.zeros((2, 3))})])
