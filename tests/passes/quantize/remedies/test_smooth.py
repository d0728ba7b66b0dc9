"""SmoothQuant: exact in float, better in integers, and folded where it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, mlp_block, sequences, snr
from remedies import Patient

from enginery.errors import DataError, UsageError
from enginery.passes.quantize.remedies.smooth import Smooth


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(mlp_block(tmp_path / "model.onnx", spread=2.0), sequences())


def test_the_float_model_stays_the_same_and_the_integer_one_gains(patient: Patient) -> None:
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(Smooth())
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)
    assert snr(patient.reference(), patient.outputs()) > plain + 2
    assert result.changed == len(result.details["tensors"]) >= 2


def test_a_normalization_read_by_linear_layers_alone_takes_the_division(patient: Patient) -> None:
    (result,) = patient.treat(Smooth())
    assert result.details["tensors"]["a.norm"]["into"] == "LayerNormalization"


def test_a_gelu_gets_a_mul_behind_it(patient: Patient) -> None:
    (result,) = patient.treat(Smooth(least_gain=-100.0))
    assert result.details["tensors"]["a.gelu"]["into"] == "Mul"


def test_a_normalization_that_others_read_too_gets_a_mul(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    normal = b.layer_norm("x", "norm", 32, spread=2.0)
    b.op("Add", [normal, b.linear(normal, "up", 32, 32)], "out")
    patient = Patient(b.save(tmp_path / "model.onnx", "out"), sequences())
    (result,) = patient.treat(Smooth())
    assert result.details["tensors"]["norm"]["into"] == "Mul"
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)


def test_a_linear_layer_in_front_takes_the_division_into_weight_and_bias(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    b.weights.clear()
    first = b.linear("x", "first", 32, 32)
    b.linear(first, "second", 32, 32)
    patient = Patient(b.save(tmp_path / "model.onnx", "second"), sequences())
    (result,) = patient.treat(Smooth(least_gain=-100.0))
    assert result.details["tensors"]["first"]["into"] == "Add"
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)


def test_layers_that_read_one_tensor_share_one_scaling(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    normal = b.layer_norm("x", "norm", 32, spread=2.0)
    b.op("Add", [b.linear(normal, "query", 32, 32), b.linear(normal, "key", 32, 32)], "out")
    patient = Patient(b.save(tmp_path / "model.onnx", "out"), sequences())
    (result,) = patient.treat(Smooth())
    assert list(result.details["tensors"]) == ["norm"]
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)


def test_too_little_gain_is_refused_with_its_figure(patient: Patient) -> None:
    (result,) = patient.treat(Smooth(least_gain=1000.0))
    assert result.changed == 0
    assert "would gain" in str(result.refusals[0])


def test_a_fixed_alpha_is_used(patient: Patient) -> None:
    (result,) = patient.treat(Smooth(alpha="0.6", least_gain=-100.0))
    assert {tensor["alpha"] for tensor in result.details["tensors"].values()} == {0.6}


@pytest.mark.parametrize("alpha", ["much", "1.5", "-0.1"])
def test_a_wrong_alpha_is_refused(alpha: str) -> None:
    with pytest.raises(UsageError, match="expected `auto` or a number from 0 to 1"):
        Smooth(alpha=alpha)


@pytest.mark.parametrize("headroom", ["much", "0.9", "nan"])
def test_a_wrong_headroom_is_refused(headroom: str) -> None:
    with pytest.raises(UsageError, match="expected `auto` or a number from 1 on"):
        Smooth(headroom=headroom)


@pytest.mark.parametrize(
    ("rows", "headroom", "room"),
    [(1 << 20, "auto", 1.5), (1 << 14, "auto", 1.5), (1 << 9, "auto", 3.0), (1, "auto", 4.0), (1, "1.25", 1.25)],
)
def test_the_fewer_rows_were_seen_the_more_room_channels_get(
    patient: Patient, rows: int, headroom: str, room: float
) -> None:
    seen = patient.context.tensors["a.norm"]
    patient.context.tensors["a.norm"] = replace(seen, count=rows * len(seen.channel_low))
    assert Smooth(headroom=headroom).room(patient.context.tensors["a.norm"]) == pytest.approx(room)


def test_without_calibration_data_it_says_what_is_missing(patient: Patient) -> None:
    patient.context.batches = None
    with pytest.raises(DataError, match="got none"):
        patient.treat(Smooth())
