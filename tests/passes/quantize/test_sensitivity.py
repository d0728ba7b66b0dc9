"""Sensitivity of single nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, calibrate, sequences

from enginery.engines.onnxruntime import open_model
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.quantize import (
    QuantizeOptions,
    Sensitivity,
    get_policy,
    measure_sensitivity,
)
from enginery.passes.quantize.sensitivity import NodeSensitivity, first_samples


def uneven(path: Path) -> Path:
    """Three linear layers; an outlier channel makes the input of the second hard to quantize."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    gain = np.ones(32, np.float32)
    gain[3] = 300
    x = b.op("Mul", [b.linear("x", "easy", 32, 32), b.weight("gain", gain)], "outlier")
    x = b.op("LayerNormalization", [b.linear(x, "hard", 32, 32), b.weight("one", np.ones(32, np.float32))], "norm")
    return b.save(path, b.linear(x, "last", 32, 32))


def test_the_hard_layer_comes_first(tmp_path: Path) -> None:
    model = uneven(tmp_path / "model.onnx")
    found = measure_sensitivity(
        model,
        calibrate(model, sequences()),
        policy=get_policy("tensorrt"),
        options=QuantizeOptions(),
        open_model=open_model,
        batches=sequences(),
    )
    hard = found.nodes[0]
    assert hard.node == "node_hard.product"
    assert hard.alone == min(node.alone for node in found.nodes)
    assert hard.without > found.all_quantized
    assert len(found.nodes) == 3


def test_sensitivity_survives_json() -> None:
    found = Sensitivity((NodeSensitivity("n0", 10.0, 30.0),), 5.0)
    assert Sensitivity.from_json(found.to_json()) == found


def test_samples_are_taken_until_there_are_enough(tmp_path: Path) -> None:
    inside = opened(tmp_path, {"x": ("batch", 3), "y": ("batch",)})
    batches = [{"x": np.zeros((4, 3)), "y": np.zeros(4)} for _ in range(3)]
    assert [feeds["x"].shape for feeds in first_samples(inside, batches, 6)] == [(4, 3), (2, 3)]
    assert [feeds["y"].shape for feeds in first_samples(inside, batches, 6)] == [(4,), (2,)]


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param({"x": ("batch", 3), "table": ("rows", 2)}, id="first axes of their own"),
        pytest.param({"x": (4, 3), "table": (4, 2)}, id="a fixed batch"),
    ],
)
def test_a_batch_that_the_model_takes_whole_only_is_taken_whole(tmp_path: Path, shapes) -> None:
    batches = [{"x": np.zeros((4, 3)), "table": np.zeros((4, 2))}]
    assert [feeds["x"].shape for feeds in first_samples(opened(tmp_path, shapes), batches, 2)] == [(4, 3)]


def opened(folder: Path, shapes: dict[str, tuple[str | int, ...]]) -> Calibrated:
    b = ModelBuilder(shapes)
    return Calibrated.open(b.save(folder / "m.onnx", b.op("Neg", [next(iter(shapes))], "y_out")), open_model, ())
