"""Cross-layer equalization: exact in float, ReLU6 included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, images, snr
from remedies import Patient

from enginery.passes.quantize.remedies.equalize import Equalize


def chain(path: Path, *, spread: float = 2.0, low: float = 0.0, activation: str = "Clip", group: int = 16) -> Path:
    """Conv, activation, (depthwise) Conv, whose channels differ by orders of magnitude."""
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.conv("image", "first", 3, 16)
    gains = np.exp(b.rng.standard_normal(16) * spread).astype(np.float32)
    for name in ("first.weight", "first.bias"):
        index = next(i for i, weight in enumerate(b.weights) if weight.name == name)
        from onnx import numpy_helper

        array = numpy_helper.to_array(b.weights[index])
        b.weights[index] = numpy_helper.from_array(array * gains.reshape(-1, *[1] * (array.ndim - 1)), name)
    if activation == "Clip":
        x = b.op("Clip", [x, b.weight("low", np.float32(low)), b.weight("high", np.float32(6))], "act")
    else:
        x = b.op(activation, [x], "act")
    b.conv(x, "second", 16, 16, group=group)
    return b.save(path, "second")


@pytest.mark.parametrize("group", [1, 4, 16])
@pytest.mark.parametrize("activation", ["Clip", "Relu"])
def test_the_float_model_stays_the_same(tmp_path: Path, activation: str, group: int) -> None:
    patient = Patient(chain(tmp_path / "model.onnx", activation=activation, group=group), images())
    (result,) = patient.treat(Equalize(least_gain=-100.0))
    assert result.changed == 1
    scale = np.abs(patient.reference()).max()
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), atol=1e-5 * scale)


@pytest.mark.parametrize("between", ["Pad", "MaxPool"])
def test_zero_padding_and_pooling_may_stand_between(tmp_path: Path, between: str) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 16)], "act")
    if between == "Pad":
        x = b.op("Pad", [x, b.weight("pads", np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))], "between")
    else:
        x = b.op("MaxPool", [x], "between", kernel_shape=[2, 2])
    b.conv(x, "second", 16, 8)
    patient = Patient(b.save(tmp_path / "model.onnx", "second"), images())
    before = patient.context.tensors["between"].high
    (result,) = patient.treat(Equalize(least_gain=-100.0))
    assert list(result.details["tensors"]) == ["between"]
    scale = np.abs(patient.reference()).max()
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), atol=1e-5 * scale)
    assert patient.context.tensors["between"].high != before


def test_padding_with_another_value_is_no_way(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 16)], "act")
    pads, one = b.weight("pads", np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64)), b.weight("one", np.float32(1))
    b.conv(b.op("Pad", [x, pads, one], "between"), "second", 16, 8)
    patient = Patient(b.save(tmp_path / "model.onnx", "second"), images())
    (result,) = patient.treat(Equalize(least_gain=-100.0))
    assert result.changed == 0


def test_unlike_channels_gain(tmp_path: Path) -> None:
    model = chain(tmp_path / "model.onnx", activation="Relu", group=1, spread=1.0)
    patient = Patient(model, images(), policy="tensorrt")
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    patient.treat(Equalize())
    assert snr(patient.reference(), patient.outputs()) > plain + 1


def test_channels_that_reach_the_cap_keep_their_scale(tmp_path: Path) -> None:
    patient = Patient(chain(tmp_path / "model.onnx"), images())
    before = patient.context.tensors["act"]
    patient.treat(Equalize(least_gain=-100.0))
    after = patient.context.tensors["act"]
    capped = before.channel_high >= 6
    assert capped.any()
    assert not capped.all()
    np.testing.assert_allclose(after.channel_high[capped], 6)
    assert after.high <= 6 + 1e-5


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"low": -1.0}, "its Clip does not start at 0"), ({"activation": "Sigmoid"}, "not every user of its output")],
)
def test_what_cannot_be_scaled_is_refused(tmp_path: Path, options, reason: str) -> None:
    patient = Patient(chain(tmp_path / "model.onnx", **options), images())
    (result,) = patient.treat(Equalize())
    assert result.changed == 0
    assert reason in str(result.refusals[0])
    assert "graph output" in str(result.refusals[1])
