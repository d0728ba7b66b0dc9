"""Channels that are computed several times, so that their weights stay small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from quantizable import ModelBuilder, sequences, snr
from remedies import Patient

from enginery.passes.base import PassResult
from enginery.passes.quantize.remedies.smooth import Smooth


def massive(path: Path, *, kind: str = "MatMul", act: str | None = "Gelu", shown: bool = False) -> Path:
    """A hidden channel that is 0 but for a few rows, where it is 40, and counts as much as any other."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    up, down = (b.rng.standard_normal(shape).astype(np.float32) / 6 for shape in ((32, 48), (48, 32)))
    up[:, 5] *= 40
    bias = np.zeros(48, np.float32)
    bias[5] = -80
    if kind == "Gemm":
        x = b.op("Reshape", ["x", b.weight("flat", np.array([-1, 32]))], "rows")
        x = b.op("Gemm", [x, b.weight("up.weight", up.T.copy()), b.weight("up.bias", bias)], "up", transB=1)
    else:
        x = b.op("Add", [b.op("MatMul", ["x", b.weight("up.weight", up)], "product"), b.weight("up.bias", bias)], "up")
    x = b.op(act, [x], "hidden") if act else x
    b.op("MatMul", [x, b.weight("down.weight", down)], "down")
    return b.save(path, "down", *([x] if shown else []))


def treat(path: Path, copies: int, policy: str = "onnxruntime-cpu") -> tuple[Patient, PassResult]:
    patient = Patient(path, sequences(), policy)
    (result,) = patient.treat(Smooth(copies=copies, headroom="1.5"))
    return patient, result


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "openvino", "tensorrt"])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_the_float_model_stays_the_same_and_the_integer_one_gains(tmp_path: Path, kind: str, policy: str) -> None:
    plain, _ = treat(massive(tmp_path / "plain.onnx", kind=kind), 0, policy)
    patient, result = treat(massive(tmp_path / "model.onnx", kind=kind), 8, policy)
    assert result.details["tensors"]["hidden"]["copies"][5] > 4
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)
    before = snr(plain.reference(), plain.outputs())
    assert snr(patient.reference(), patient.outputs()) > before + 1
    onnx.checker.check_model(str(patient.placed), full_check=True)


def test_statistics_and_shapes_know_the_copies(tmp_path: Path) -> None:
    patient, _ = treat(massive(tmp_path / "model.onnx"), 8)
    for name in ("up", "hidden"):
        assert len(patient.context.tensors[name].channel_low) == 56
    shapes = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(patient.placed).graph.value_info}
    assert shapes["hidden"][-1].dim_value == 56


@pytest.mark.parametrize("options", [{"shown": True}, {"act": "Softmax"}])
def test_a_tensor_that_others_see_or_that_mixes_channels_gets_none(tmp_path: Path, options) -> None:
    patient, result = treat(massive(tmp_path / "model.onnx", **options), 8)
    assert not any("copies" in each for each in result.details["tensors"].values())
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)


def test_where_copies_gain_nothing_the_graph_stays_as_it_was(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    b.linear(b.op("Gelu", [b.linear("x", "up", 32, 48)], "hidden"), "down", 48, 32)
    patient, result = treat(b.save(tmp_path / "model.onnx", "down"), 8)
    assert not any("copies" in each for each in result.details["tensors"].values())
    shapes = {tensor.name: tensor.dims for tensor in onnx.load(patient.placed).graph.initializer}
    assert [list(dims) for dims in shapes.values() if len(dims) == 2] == [[32, 48], [48, 32]]
