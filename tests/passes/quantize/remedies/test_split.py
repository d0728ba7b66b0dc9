"""Outlier channels beside the integer product: exact in float, better in integers, and only where it pays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import rtx
from quantizable import ModelBuilder, calibrate, mlp_block, normal_batches, run_all, sequences, snr
from remedies import Patient

from enginery.engines import get_engine
from enginery.engines.onnxruntime import open_model
from enginery.passes.graph.ir import load_graph
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.remedies.split import SplitOutliers


def outlier_net(path: Path, *, bias: bool = True, output: bool = False) -> Path:
    """Two linear layers that read a tensor of 32 channels, two of which are 300 times larger than the rest."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    gain = np.ones(32, np.float32)
    gain[[3, 17]] = 300
    x = b.op("Mul", [b.op("Gelu", ["x"], "gelu"), b.weight("gain", gain)], "hidden")
    if bias:
        ends = [b.linear(x, name, 32, 16) for name in ("left", "right")]
    else:
        ends = [b.op("MatMul", [x, b.normal(f"{name}.weight", 32, 16)], name) for name in ("left", "right")]
    if output:
        return b.save(path, *ends)
    return b.save(path, b.op("Add", [b.op("Tanh", [ends[0]], "tanh"), ends[1]], "out"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_the_float_model_stays_the_same_and_the_integer_one_gains(tmp_path: Path, policy: str, bias: bool) -> None:
    patient = Patient(outlier_net(tmp_path / "model.onnx", bias=bias), sequences(), policy)
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(SplitOutliers())
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-5, atol=1e-3)
    assert snr(patient.reference(), patient.outputs()) > plain + 20
    onnx.checker.check_model(str(patient.placed), full_check=True)
    assert result.details["tensors"]["hidden"]["channels"] == [3, 17]


def test_layers_that_read_one_tensor_share_one_gather(tmp_path: Path) -> None:
    patient = Patient(outlier_net(tmp_path / "model.onnx"), sequences())
    patient.treat(SplitOutliers())
    ops = [node.op_type for node in onnx.load(patient.placed).graph.node]
    assert ops.count("Gather") == 1
    assert ops.count("MatMul") == 4


def test_the_float_side_is_added_behind_the_bias_which_the_integer_kernel_takes(tmp_path: Path) -> None:
    patient = Patient(outlier_net(tmp_path / "model.onnx"), sequences())
    patient.treat(SplitOutliers())
    nodes = {node.name: node for node in onnx.load(patient.placed).graph.node}
    assert nodes["left/Join"].input[0] == "left"


def test_the_plan_says_what_the_float_side_is(tmp_path: Path) -> None:
    patient = Patient(outlier_net(tmp_path / "model.onnx"), sequences())
    patient.treat(SplitOutliers())
    context = patient.context
    assert context.float_model is not None
    plan = make_plan(load_graph(context.float_model), context.policy, context.options, context.tensors)
    reasons = {refusal.reason for refusal in plan.refusals}
    assert reasons == {"computes outlier channels in float, beside the integer product"}


def test_the_integer_range_does_not_know_the_split_channels(tmp_path: Path) -> None:
    patient = Patient(outlier_net(tmp_path / "model.onnx"), sequences())
    before = patient.context.tensors["hidden"].high
    patient.treat(SplitOutliers())
    assert patient.context.tensors["hidden"].high < before / 50


def test_graph_outputs_keep_their_names(tmp_path: Path) -> None:
    model = outlier_net(tmp_path / "model.onnx", bias=False, output=True)
    patient = Patient(model, sequences())
    patient.treat(SplitOutliers())
    feeds = next(sequences()())
    expected, found = open_model(model)(feeds), open_model(patient.placed)(feeds)
    assert list(found) == ["left", "right"]
    for name, array in expected.items():
        assert snr(array.reshape(-1, 16), found[name].reshape(-1, 16)) > 30


def test_a_tensor_without_outliers_is_refused_with_its_figure(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx", spread=0.0), sequences())
    (result,) = patient.treat(SplitOutliers(least_share=0.9))
    assert result.changed == 0
    assert all("% of the noise at most" in refusal.reason for refusal in result.refusals)


def test_a_tensor_that_is_made_as_an_integer_is_refused(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 8, 8)})
    x = b.op("Flatten", [b.op("GlobalAveragePool", [b.conv("image", "conv", 3, 16)], "mean")], "flat")
    b.op("Gemm", [x, b.normal("head", 10, 16), b.normal("bias", 10)], "logits", transB=1)
    patient = Patient(b.save(tmp_path / "model.onnx", "logits"), normal_batches("image", *[(4, 3, 8, 8)] * 4))
    (result,) = patient.treat(SplitOutliers())
    assert "it is made as an integer" in str(result.refusals[0])


def test_a_gemm_with_a_transposed_weight_is_split_too(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", 32)})
    gain = np.ones(32, np.float32)
    gain[5] = 300
    x = b.op("Mul", ["x", b.weight("gain", gain)], "hidden")
    b.op("Gemm", [x, b.normal("weight", 16, 32), b.normal("bias", 16)], "out", transB=1)
    data = normal_batches("x", *[(16, 32)] * 4)
    patient = Patient(b.save(tmp_path / "model.onnx", "out"), data)
    (result,) = patient.treat(SplitOutliers())
    assert result.details["tensors"]["hidden"]["channels"] == [5]
    np.testing.assert_allclose(patient.float_outputs(), run_all(patient.model, data), rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_float_side(tmp_path: Path) -> None:
    if reason := get_engine("tensorrt-rtx").cannot_build():
        pytest.skip(reason)
    model = outlier_net(tmp_path / "model.onnx")
    output = tmp_path / "int8.onnx"
    options = QuantizeOptions(passes=("split-outliers",))
    data, policy = sequences(), get_policy("tensorrt")
    statistics = calibrate(model, data)
    quantize_model(model, output, statistics, policy=policy, options=options, open_model=open_model, batches=data)
    assert any(node.name.endswith("/Join") for node in onnx.load(output).graph.node)
    assert isinstance(kernels := rtx.build(output, {"seq": rtx.DimRange(1, 8, 16)}), dict), kernels
