"""Bias correction and adaptive rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizable import ModelBuilder, conv_net, images, mlp_block, sequences, snr
from remedies import Patient

from enginery.passes.quantize.remedies.bias import CorrectBias
from enginery.passes.quantize.remedies.rounding import RoundWeights, descend


def cancelling(path: Path) -> Path:
    """A depthwise convolution whose weights nearly cancel a large mean input."""
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Add", ["image", b.weight("offset", np.float32(20))], "shifted")
    b.conv(x, "filter", 3, 3, group=3)
    from onnx import numpy_helper

    weight = numpy_helper.to_array(b.weights[1])
    balanced = weight - weight.mean(axis=(1, 2, 3), keepdims=True)
    b.weights[1] = numpy_helper.from_array(balanced.astype(np.float32), "filter.weight")
    return b.save(path, "filter")


@pytest.mark.parametrize("remedy", [CorrectBias(), RoundWeights()])
def test_filters_that_cancel_a_large_mean_gain(tmp_path: Path, remedy) -> None:
    patient = Patient(cancelling(tmp_path / "model.onnx"), images(), policy="tensorrt")
    patient.treat()
    plain = np.abs((patient.outputs() - patient.reference()).mean())
    patient.treat(remedy)
    assert np.abs((patient.outputs() - patient.reference()).mean()) < plain / 2


def test_correcting_after_rounding_changes_the_bias_no_further(tmp_path: Path) -> None:
    patient = Patient(conv_net(tmp_path / "model.onnx"), images())
    patient.treat(RoundWeights())
    alone = patient.outputs()
    patient.treat(RoundWeights(), CorrectBias())
    assert snr(alone, patient.outputs()) > 35


def products(path: Path, *, bias: str) -> Path:
    """A product of rows with a large mean and weights of two very different sizes, and a bias of one kind behind it."""
    b = ModelBuilder({"x": ("batch", "seq", 16)})
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 16)) * np.where(rng.random((16, 16)) < 0.1, 1.0, 0.01)
    raised = b.op("Add", ["x", b.weight("offset", np.float32(5))], "raised")
    product = b.op("MatMul", [raised, b.weight("w", weight.astype(np.float32))], "product")
    shapes = {"channels": (16,), "row": (1, 1, 16), "sequence": (16, 1)}
    if bias == "none":
        return b.save(path, product)
    added = b.weight("bias", rng.standard_normal(shapes[bias]).astype(np.float32))
    return b.save(path, b.op("Add", [added, product], "sum"))


@pytest.mark.parametrize("bias", ["channels", "row"])
def test_a_bias_behind_a_product_is_corrected(tmp_path: Path, bias: str) -> None:
    data = [{"x": np.random.default_rng(seed).standard_normal((8, 16, 16), np.float32)} for seed in range(6)]
    patient = Patient(products(tmp_path / "model.onnx", bias=bias), lambda: data)
    patient.treat()
    plain = np.abs((patient.outputs() - patient.reference()).mean(axis=(0, 1))).mean()
    (result,) = patient.treat(CorrectBias())
    assert result.changed == 1
    assert np.abs((patient.outputs() - patient.reference()).mean(axis=(0, 1))).mean() < plain / 2


@pytest.mark.parametrize("bias", ["none", "sequence"])
def test_layers_without_a_bias_are_refused_by_name(tmp_path: Path, bias: str) -> None:
    data = [{"x": np.random.default_rng(seed).standard_normal((8, 16, 16), np.float32)} for seed in range(6)]
    patient = Patient(products(tmp_path / "model.onnx", bias=bias), lambda: data)
    (result,) = patient.treat(CorrectBias())
    assert result.changed == 0
    assert str(result.refusals[0]).endswith("product: no constant bias")


@pytest.mark.parametrize(("build", "batches"), [(conv_net, images()), (mlp_block, sequences())])
def test_adaptive_rounding_lowers_the_error_of_every_layer(tmp_path: Path, build, batches) -> None:
    patient = Patient(build(tmp_path / "model.onnx"), batches)
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(RoundWeights())
    assert all(layer["after"] <= layer["before"] * 1.01 for layer in result.details["layers"].values())
    assert snr(patient.reference(), patient.outputs()) > plain


def test_layers_left_when_the_operations_are_over_are_refused_by_name(tmp_path: Path) -> None:
    patient = Patient(conv_net(tmp_path / "model.onnx"), images())
    (result,) = patient.treat(RoundWeights(operations=0.0))
    assert result.changed == 0
    assert "nearest rounding: 0 operations were over" in str(result.refusals[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6))
def test_descent_never_raises_the_objective_and_stays_on_the_grid(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    exact, step = rng.standard_normal((1, size, 3)), np.full((1, size, 3), 0.1)
    rows = rng.standard_normal((1, 20, size))
    gram = rows.transpose(0, 2, 1) @ rows / 20 + 1e-3 * np.eye(size)
    start = np.clip(np.rint(exact / step), -127, 127) * step
    found = descend(exact, start, step, gram, "int8", sweeps=3)

    def objective(candidate: np.ndarray) -> float:
        difference = exact - candidate
        return float(np.einsum("gkm,gkl,glm->", difference, gram, difference))

    assert objective(found) <= objective(start) + 1e-12
    np.testing.assert_allclose(found / step, np.rint(found / step), atol=1e-9)
