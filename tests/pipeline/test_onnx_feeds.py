"""Random inputs of an ONNX file: sizes that it accepts, and values that show a difference."""

import numpy as np
import onnx
import pytest
from graphs import parse_model

from enginery.engines.onnxruntime import open_model
from enginery.errors import UsageError
from enginery.pipeline.onnx_feeds import dynamic_dims, feeds_that_run, random_feeds


@pytest.fixture
def save(tmp_path):
    def write(text):
        onnx.save(parse_model(text), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def test_every_dimension_has_a_size_of_its_own(save):
    model = save("g (float[N, M] x, int64[M] i) => (float[N, M] y) { f = Cast<to: int = 1>(i) y = Add(x, f) }")
    assert dynamic_dims(model) == ("N", "M")
    feeds = feeds_that_run(model, open_model)
    assert [feed["x"].shape for feed in feeds] == [(2, 1), (1, 5), (5, 2)]
    assert all(set(np.unique(feed["i"])) <= {0, 1} for feed in feeds)


def test_dimensions_that_depend_on_each_other_are_equal(save):
    model = save("g (float[N, 4] x, float[M, 4] z) => (float[N, 4] y) { s = Sub(x, z) y = Mul(s, z) }")
    shapes = [(feed["x"].shape[0], feed["z"].shape[0]) for feed in feeds_that_run(model, open_model)]
    assert shapes == [(2, 1), (1, 5), (5, 5)], "a size of 1 broadcasts"


def test_a_mask_shows_its_first_position(save):
    model = save("g (int64[N, M] attention_mask) => (int64[N, M] y) { y = Identity(attention_mask) }")
    (feed,) = random_feeds(model, [{"N": 64, "M": 3}])
    assert feed["attention_mask"][:, 0].all()
    assert not feed["attention_mask"].all()


def test_a_size_of_minus_one_is_not_known(tmp_path):
    model = parse_model("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, tmp_path / "model.onnx")
    assert dynamic_dims(tmp_path / "model.onnx") == ("",)
    assert [feed["x"].shape for feed in feeds_that_run(tmp_path / "model.onnx", open_model)] == [(2, 4), (1, 4), (5, 4)]


def test_a_number_without_dimensions(save):
    model = save("g (float[N, 4] x, int64 rate) => (float[N, 4] y) { f = Cast<to: int = 1>(rate) y = Add(x, f) }")
    assert all(feed["rate"].shape == () for feed in feeds_that_run(model, open_model))


def test_outputs_that_prove_nothing(save):
    model = save("g (float[N] x) => (float[N] y) { y = Sub(x, x) }")
    with pytest.raises(UsageError, match=r"zero or not a number\. Give real ones with --inputs"):
        feeds_that_run(model, open_model)


def test_a_model_that_no_noise_satisfies(save):
    model = save("g (float[N] x) => (float[1] y) <int64[1] four = {4}> { r = Reshape(x, four) y = ReduceSum(r) }")
    with pytest.raises(UsageError, match="Reshape"):
        feeds_that_run(model, open_model)
