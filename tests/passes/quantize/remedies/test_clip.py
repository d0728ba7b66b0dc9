"""Weight clipping: the scale that costs the layer's output least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantizable import ModelBuilder, conv_net, images, normal_batches, sequences, snr
from remedies import Patient

from enginery.errors import UsageError
from enginery.passes.graph.ir import load_graph
from enginery.passes.quantize.options import NodeOverride
from enginery.passes.quantize.pairs import grid_of, has_weight_pair, weight_pair
from enginery.passes.quantize.remedies.clip import ClipWeights


def heavy_weight(path: Path, *, channels: int = 64) -> Path:
    """A linear layer one of whose inputs is quiet and has a weight far larger than the rest."""
    b = ModelBuilder({"x": ("batch", "seq", channels)})
    gain = np.ones(channels, np.float32)
    gain[7] = 1e-4
    x = b.op("Mul", ["x", b.weight("gain", gain)], "hidden")
    weight = b.rng.standard_normal((channels, 16)).astype(np.float32)
    weight[7, :8] = 8
    return b.save(path, b.op("MatMul", [x, b.weight("weight", weight)], "out"))


def data(channels: int = 64):
    return normal_batches("x", *[(4, 16, channels)] * 4)


def scales(patient: Patient) -> np.ndarray:
    (node,) = [node for node in load_graph(patient.placed).nodes if has_weight_pair(node)]
    return grid_of(weight_pair(node)).scale


def test_a_large_weight_of_a_quiet_input_is_clipped(tmp_path: Path) -> None:
    patient = Patient(heavy_weight(tmp_path / "model.onnx"), data())
    patient.treat()
    before, plain = scales(patient), snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(ClipWeights())
    after = scales(patient)
    assert snr(patient.reference(), patient.outputs()) > plain
    assert (after[:8] < 0.6 * before[:8]).all()
    (figures,) = result.details["layers"].values()
    assert figures["clipped_channels"] >= 8
    assert figures["error_left"] < 0.7


def test_both_ends_of_the_pair_have_the_new_scale(tmp_path: Path) -> None:
    patient = Patient(heavy_weight(tmp_path / "model.onnx"), data())
    patient.treat(ClipWeights())
    model = onnx.load(patient.placed)
    onnx.checker.check_model(model, full_check=True)
    used = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    clipped = [name for name in used if "clipped_scale" in name]
    assert len(clipped) == 1
    ends = [node.op_type for node in model.graph.node if clipped[0] in node.input]
    assert sorted(ends) == ["DequantizeLinear", "QuantizeLinear"]
    assert {tensor.name for tensor in model.graph.initializer if tensor.name in clipped} == set(clipped)
    assert numpy_helper.to_array(next(t for t in model.graph.initializer if t.name in clipped)).shape == (16,)


def test_one_scale_for_all_channels_is_searched_as_one(tmp_path: Path) -> None:
    patient = Patient(heavy_weight(tmp_path / "model.onnx"), data(), overrides=(NodeOverride(".*", per_channel=False),))
    patient.treat()
    before = scales(patient)
    patient.treat(ClipWeights())
    assert scales(patient).shape == ()
    assert scales(patient) < before


def test_convolutions_keep_their_channels_apart(tmp_path: Path) -> None:
    patient = Patient(conv_net(tmp_path / "model.onnx"), images())
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(ClipWeights())
    assert result.changed
    assert snr(patient.reference(), patient.outputs()) > plain - 1


def test_weights_that_use_their_range_are_left_alone(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    signs = np.sign(b.rng.standard_normal((32, 16))).astype(np.float32)
    b.op("MatMul", ["x", b.weight("weight", signs)], "out")
    patient = Patient(b.save(tmp_path / "model.onnx", "out"), sequences())
    (result,) = patient.treat(ClipWeights())
    assert result.changed == 0
    assert "no clipping lowers the error" in str(result.refusals[0])


@pytest.mark.parametrize("options", [{"least": 0.0}, {"least": 1.0}, {"steps": 1}])
def test_a_wrong_option_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected 0 < least < 1 and steps >= 2"):
        ClipWeights(**options)
