"""Static int8 end to end: placement, numbers and kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantizable import ModelBuilder, calibrate, conv_net, images, mlp_block, run_all, sequences, snr

from enginery.engines.onnxruntime import open_model
from enginery.errors import StatisticsError
from enginery.passes.base import PassResult
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model


def quantize(model: Path, batches, policy: str, **options) -> tuple[Path, PassResult]:
    output = model.with_name(f"{policy}.onnx")
    result = quantize_model(
        model,
        output,
        calibrate(model, batches),
        policy=get_policy(policy),
        options=QuantizeOptions(passes=(), **options),
        open_model=open_model,
        batches=batches,
    )
    onnx.checker.check_model(onnx.load(output), full_check=True)
    return output, result


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
@pytest.mark.parametrize(("build", "batches"), [(conv_net, images()), (mlp_block, sequences())])
def test_the_quantized_model_answers_like_the_float_one(tmp_path: Path, build, batches, policy: str) -> None:
    model = build(tmp_path / "model.onnx")
    output, result = quantize(model, batches, policy)
    assert result.changed >= 4
    assert snr(run_all(model, batches), run_all(output, batches)) > 18


def kernels(model: Path, folder: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model), options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_a_residual_stays_integer_behind_a_pad(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 8)], "first.act")
    pads = b.weight("pads", np.array([0, 4, 0, 0, 0, 4, 0, 0]))
    skip = b.op("Pad", [x, pads], "skip")
    b.op("Relu", [b.op("Add", [b.conv(x, "main", 8, 16), skip], "sum")], "out")
    output, _ = quantize(b.save(tmp_path / "model.onnx", "out"), images(), "onnxruntime-cpu")
    ops = kernels(output, tmp_path)
    assert ops["QLinearAdd"] == 1
    assert ops["Add"] == ops["Relu"] == 0


def test_a_residual_stays_integer_behind_a_layer_in_float(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 8)], "first.act")
    for block in ("one", "two"):
        y = b.conv(b.op("Relu", [b.conv(x, f"{block}.a", 8, 8)], f"{block}.act"), f"{block}.b", 8, 8)
        x = b.op("Relu", [b.op("Add", [y, x], f"{block}.sum")], f"{block}.out")
    output, _ = quantize(b.save(tmp_path / "model.onnx", x), images(), "onnxruntime-cpu", keep_float=("first.*",))
    ops = kernels(output, tmp_path)
    assert ops["Conv"] == 1
    assert ops["QLinearAdd"] == 2
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1


def test_onnxruntime_gets_integer_kernels_throughout_a_conv_net(tmp_path: Path) -> None:
    output, _ = quantize(conv_net(tmp_path / "model.onnx"), images(), "onnxruntime-cpu")
    ops = kernels(output, tmp_path)
    assert ops["QLinearConv"] == 7
    assert ops["QGemm"] == 1
    assert ops["Conv"] == ops["Gemm"] == 0


def test_statistics_are_required_and_must_be_of_this_graph(tmp_path: Path) -> None:
    model, other = conv_net(tmp_path / "model.onnx"), conv_net(tmp_path / "other.onnx", seed=1)
    arguments = {
        "policy": get_policy("tensorrt"),
        "options": QuantizeOptions(),
        "open_model": open_model,
        "batches": None,
    }
    with pytest.raises(StatisticsError, match="needs statistics"):
        quantize_model(model, tmp_path / "out.onnx", None, **arguments)
    with pytest.raises(StatisticsError, match="belong to graph"):
        quantize_model(model, tmp_path / "out.onnx", calibrate(other, images()), **arguments)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "model.onnx")
    first = quantize(model, images(), "onnxruntime-cpu")[0].read_bytes()
    assert quantize(model, images(), "onnxruntime-cpu")[0].read_bytes() == first
