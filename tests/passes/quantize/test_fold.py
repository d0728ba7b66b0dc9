"""Integer weights and biases: what they must represent exactly enough, in every form that a bias comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantizable import ModelBuilder, calibrate, images, run_all

from enginery.engines.onnxruntime import open_model
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.fold import MOST_BIAS
from enginery.passes.quantize.options import NodeOverride


def quantize(model: Path, batches, policy: str, *, per_channel: bool = True) -> Path:
    output = model.with_name(f"{policy}.onnx")
    quantize_model(
        model,
        output,
        calibrate(model, batches),
        policy=get_policy(policy),
        options=QuantizeOptions(passes=(), overrides=(NodeOverride(".*", per_channel=per_channel),)),
        open_model=open_model,
        batches=batches,
    )
    onnx.checker.check_model(onnx.load(output), full_check=True)
    return output


def rows():
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((2, 4)).astype(np.float32)} for _ in range(4)]
    return lambda: batches


def biases(model: Path) -> list[np.ndarray]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    return [array for name, array in arrays.items() if name.endswith("/bias/quantized")]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt", "openvino"])
@pytest.mark.parametrize(("shape", "integer"), [((3,), 1), ((1, 3), 1), ((1,), 1), ((), 1), ((2, 3), 0), ((2, 1), 0)])
def test_a_gemm_broadcasts_its_bias(tmp_path, shape, integer, policy, per_channel) -> None:
    b = ModelBuilder({"x": (2, 4)})
    bias = b.weight("b", b.rng.standard_normal(shape).astype(np.float32))
    model = b.save(tmp_path / "model.onnx", b.op("Gemm", ["x", b.normal("w", 4, 3), bias], "y"))
    output = quantize(model, rows(), policy, per_channel=per_channel)
    np.testing.assert_allclose(run_all(output, rows()), run_all(model, rows()), atol=0.05)
    found = biases(output)
    assert len(found) == (integer if policy == "onnxruntime-cpu" else 0)
    assert all(each.dtype == np.int32 and each.shape == (3,) for each in found)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-15, 1e-30])
def test_a_bias_beside_weights_that_are_almost_zero_is_kept(tmp_path, size, per_channel) -> None:
    """What batch normalization leaves of a channel that it switched off: a constant, in units too small for int32."""
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    kernel = b.rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    kernel[:: 2 if per_channel else 1] *= np.float32(size)
    weight, bias = b.weight("w", kernel), b.weight("b", np.array([1.0, 0.1, -2.0, -0.2], np.float32))
    model = b.save(tmp_path / "model.onnx", b.op("Conv", ["image", weight, bias], "y"))
    output = quantize(model, images(), "onnxruntime-cpu", per_channel=per_channel)
    expected = run_all(model, images())
    np.testing.assert_allclose(run_all(output, images()), expected, atol=0.02 * np.abs(expected).max())
    (integers,) = biases(output)
    assert np.abs(integers.astype(np.int64)).max() <= MOST_BIAS
