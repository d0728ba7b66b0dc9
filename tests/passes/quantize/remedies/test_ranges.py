"""Activation ranges: narrower where a few values took most of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, conv_net, images, mlp_block, sequences, snr
from remedies import Patient

from enginery.passes.quantize.remedies.equalize import Equalize
from enginery.passes.quantize.remedies.ranges import ClipActivations, best_range


def two_convs(path: Path) -> Path:
    b = ModelBuilder({"image": ("batch", 3, "height", "width")})
    x = b.op("Relu", [b.conv("image", "first", 3, 16)], "relu")
    b.conv(x, "second", 16, 8)
    return b.save(path, "second")


def bright_pixel(count: int = 6) -> Iterator[dict[str, np.ndarray]]:
    """One pixel of all is far brighter than the others."""
    rng = np.random.default_rng(0)
    for index in range(count):
        batch = rng.standard_normal((8, 3, 64, 64)).astype(np.float32)
        if index == 0:
            batch[0, :, 8, 8] = 12
        yield {"image": batch}


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_a_large_value_is_clipped_and_the_rest_gains(tmp_path: Path, policy: str) -> None:
    patient = Patient(two_convs(tmp_path / "model.onnx"), bright_pixel, policy)
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(ClipActivations())
    assert {"image", "relu"} <= set(result.details["tensors"])
    seen, kept = (result.details["tensors"]["image"][key] for key in ("seen", "kept"))
    assert kept[1] < 0.8 * seen[1]
    assert snr(patient.reference(), patient.outputs()) > plain + 1


def test_the_error_is_that_of_the_policys_grid(tmp_path: Path) -> None:
    """Behind a Relu a symmetric grid has half the levels, so that a narrower range is worth more."""
    patient = Patient(two_convs(tmp_path / "model.onnx"), images(), "tensorrt")
    statistics = patient.context.tensors["relu"]
    ranges = [best_range(statistics, patient.context, symmetric=symmetric) for symmetric in (True, False)]
    assert [low for low, _ in ranges] == [0, 0]
    assert ranges[0][1] < ranges[1][1] <= statistics.high


def test_a_rescaled_tensor_is_observed_anew(tmp_path: Path) -> None:
    patient = Patient(conv_net(tmp_path / "model.onnx"), images(), "tensorrt")
    _, result = patient.treat(Equalize(least_gain=-100.0), ClipActivations())
    assert "stem.act" in result.details["tensors"]
    assert patient.context.tensors["stem.act"].histogram


def test_a_network_of_linear_layers_is_left_alone(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    (result,) = patient.treat(ClipActivations())
    assert result.changed == 0
    assert "no convolution is quantized" in str(result.refusals[0])
