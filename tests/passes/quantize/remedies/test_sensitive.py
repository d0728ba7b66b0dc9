"""Small layers whose rounding costs most stay float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, attention_block, mlp_block, normal_batches, sequences, snr
from remedies import Patient

from enginery.passes.quantize.remedies.sensitive import FloatProducts, FloatSensitive


def fragile(path: Path) -> Path:
    """A small layer whose input has an outlier channel, between large layers that have none."""
    b = ModelBuilder({"x": ("batch", "seq", 64)})
    gain = np.ones(64, np.float32)
    gain[3] = 300
    x = b.op("Mul", [b.linear("x", "wide", 64, 64), b.weight("gain", gain)], "outlier")
    weight = b.rng.standard_normal((64, 4)).astype(np.float32)
    weight[3] /= 300
    x = b.op("MatMul", [x, b.weight("small.weight", weight)], "small")
    x = b.op("Concat", [x, "x"], "both", axis=-1)
    return b.save(path, b.op("Add", [b.linear(x, "last", 68, 64), "x"], "out"))


def data():
    return normal_batches("x", *[(4, 8, 64)] * 6)


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_the_sensitive_layer_stays_float_and_the_outputs_gain(tmp_path: Path, policy: str) -> None:
    patient = Patient(fragile(tmp_path / "model.onnx"), data(), policy)
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(FloatSensitive(work=0.1))
    assert list(result.details["float"]) == ["node_small"]
    assert snr(patient.reference(), patient.outputs()) > plain + 1


def test_a_layer_that_does_too_much_of_the_work_is_never_taken(tmp_path: Path) -> None:
    patient = Patient(fragile(tmp_path / "model.onnx"), data())
    (result,) = patient.treat(FloatSensitive(work=0.01))
    assert result.changed == 0
    assert "no layer does 1.0% of the work or less" in str(result.refusals[0])


def test_together_they_stay_below_the_bound(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    (result,) = patient.treat(FloatSensitive(work=0.3, least_gain=-100.0))
    assert result.changed == 1
    assert sum("more than 30.0% of the work would be float" in refusal.reason for refusal in result.refusals) == 3


def test_what_gains_too_little_is_refused_with_its_figure(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    (result,) = patient.treat(FloatSensitive(work=0.5, least_gain=100.0))
    assert result.changed == 0
    assert all("would gain" in refusal.reason for refusal in result.refusals)


def test_layers_beyond_the_trials_are_refused(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    (result,) = patient.treat(FloatSensitive(work=0.5, trials=1, least_gain=100.0))
    assert [refusal.reason for refusal in result.refusals].count("not tried: 1 before it were") == 3


def test_products_that_gain_enough_stay_float(tmp_path: Path) -> None:
    patient = Patient(attention_block(tmp_path / "model.onnx"), sequences(), "openvino")
    (result,) = patient.treat(FloatProducts(least_gain=-100.0))
    assert set(result.details["float"]) == {"node_scores", "node_mixed"}
    (none,) = Patient(attention_block(tmp_path / "other.onnx"), sequences(), "openvino").treat(
        FloatProducts(least_gain=100.0)
    )
    assert none.changed == 0
    assert {str(refusal).split(":")[0] for refusal in none.refusals} == {"node_scores", "node_mixed"}


def test_without_quantized_products_there_is_nothing_to_keep(tmp_path: Path) -> None:
    (result,) = Patient(attention_block(tmp_path / "model.onnx"), sequences()).treat(FloatProducts())
    assert "no product of two computed tensors is quantized" in str(result.refusals[0])
