import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from enginery.errors import UsageError
from enginery.pipeline.bundle.manifest import PostprocessRecord
from enginery.pipeline.bundle.postprocess import finish, record
from enginery.pipeline.recipe import Recipe

RECIPE = {
    "name": "m",
    "source": {"onnx": "m.onnx"},
    "inputs": {"x": {"shape": ["batch", 3]}},
    "outputs": {"y": {"shape": ["batch", 3]}},
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}},
}
FLOATS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e4, 1e4, width=32))


def apply(values, function):
    return finish({"y": np.asarray(values)}, {"y": PostprocessRecord(apply=function)})["y"]


@given(FLOATS)
def test_softmax_is_a_distribution_in_the_order_of_the_values(values):
    found = apply(values, "softmax")
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    assert (found >= 0).all()
    largest = np.take_along_axis(found, values.argmax(-1, keepdims=True), -1)[..., 0]
    np.testing.assert_array_equal(largest, found.max(-1))


@given(FLOATS)
def test_sigmoid_stays_between_zero_and_one_at_any_value(values):
    found = apply(values, "sigmoid")
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found + apply(-values, "sigmoid"), 1, atol=1e-6)


def test_normalize_gives_unit_length_and_leaves_zero_alone():
    np.testing.assert_allclose(apply(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), "normalize"), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float32"), ("int8", "float32"), ("float64", "float64")])
def test_answers_are_in_float32_at_least(dtype, expected):
    assert apply(np.ones((1, 2), dtype), "softmax").dtype == expected


def test_the_largest_values_come_with_places_and_labels():
    how = PostprocessRecord(top=2, labels=("a", "b", "c"))
    found = finish({"y": np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]], np.float32), "z": np.zeros(2)}, {"y": how})
    np.testing.assert_array_equal(found["y"], [[3, 2], [5, 5]])
    np.testing.assert_array_equal(found["y.index"], [[1, 2], [0, 1]])
    assert found["y.label"].tolist() == [["b", "c"], ["a", "b"]]
    assert list(found) == ["y", "y.index", "y.label", "z"]


def test_labels_are_read_and_pinned(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\nhen\npig\n", encoding="utf-8")
    recipe = Recipe.model_validate({**RECIPE, "postprocess": {"y": {"top": 1, "labels": "labels.txt"}}})
    assert record(recipe, tmp_path)["y"].labels == ("cat", "hen", "pig")


@pytest.mark.parametrize(
    ("text", "words"), [("cat\n", "has 1 lines; output y has the last dimension 3"), (None, "No such")]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "labels.txt").write_text(text)
    recipe = Recipe.model_validate({**RECIPE, "postprocess": {"y": {"top": 1, "labels": "labels.txt"}}})
    with pytest.raises(UsageError, match=words):
        record(recipe, tmp_path)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"z": {"apply": "softmax"}}, "does not declare"),
        ({"y": {"top": 4}}, "does not fit its last dimension"),
        ({"y": {"labels": "labels.txt"}}, "`labels` needs `top`"),
        ({"y": {"apply": "magic"}}, "softmax"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(part, words):
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({**RECIPE, "postprocess": part})
