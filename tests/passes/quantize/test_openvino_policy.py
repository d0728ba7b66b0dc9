"""The policy `openvino`: attention's products, residuals, and the kernels that OpenVINO chooses for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantizable import attention_block, calibrate, conv_net, images, run_all, sequences, snr

from enginery.engines.onnxruntime import open_model
from enginery.engines.openvino import OpenVinoOptions, import_openvino
from enginery.passes.base import PassResult
from enginery.passes.calibration import Statistics
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model


def quantize(model: Path, batches, statistics: Statistics | None = None, **options) -> tuple[Path, PassResult]:
    output = model.with_name("quantized.onnx")
    result = quantize_model(
        model,
        output,
        statistics or calibrate(model, batches),
        policy=get_policy("openvino"),
        options=QuantizeOptions(passes=(), **options),
        open_model=open_model,
        batches=batches,
    )
    onnx.checker.check_model(onnx.load(output), full_check=True)
    return output, result


def executed(model: Path) -> dict[str, list[str]]:
    """The precisions of OpenVINO's own execution graph, by kind of layer."""
    compiled = import_openvino().Core().compile_model(str(model), "CPU", OpenVinoOptions(1).properties())
    found: dict[str, list[str]] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info: Any = operation.get_rt_info()
        found.setdefault(info["layerType"].astype(str), []).append(info["runtimePrecision"].astype(str))
    return found


def quantized_from(model: Path) -> dict[str, str]:
    """The tensors in front of QuantizeLinear nodes, with the integer type each gets."""
    graph = onnx.load(model).graph
    types = {tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in graph.initializer}
    return {node.input[0]: types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize(("build", "batches"), [(conv_net, images()), (attention_block, sequences())])
def test_the_quantized_model_answers_like_the_float_one(tmp_path: Path, build, batches) -> None:
    model = build(tmp_path / "model.onnx")
    output, result = quantize(model, batches)
    assert result.changed >= 6
    assert snr(run_all(model, batches), run_all(output, batches)) > 18


def test_both_products_of_an_attention_are_integer_from_the_linear_layers_on(tmp_path: Path) -> None:
    output, result = quantize(attention_block(tmp_path / "model.onnx"), sequences())
    assert {"node_scores", "node_mixed"} <= set(result.details["integer"])
    assert not result.refusals
    # Before the reshape, the transpose and the scaling; signed where values are, and never a zero point.
    types = quantized_from(output)
    assert {name: types[name] for name in ("query", "key", "value", "weights")} == {
        "query": "int8",
        "key": "int8",
        "value": "int8",
        "weights": "uint8",
    }


def test_openvino_runs_linear_layers_and_convolutions_in_integers(tmp_path: Path) -> None:
    attention, _ = quantize(attention_block(tmp_path / "model.onnx"), sequences())
    assert set(executed(attention)["FullyConnected"]) <= {"u8", "i8"}
    convolutions, _ = quantize(conv_net(tmp_path / "conv.onnx"), images())
    assert set(executed(convolutions)["Convolution"]) <= {"u8", "i8"}


def test_a_product_can_be_left_in_float_by_name(tmp_path: Path) -> None:
    output, result = quantize(attention_block(tmp_path / "model.onnx"), sequences(), keep_float=("node_mixed",))
    assert "node_scores" in result.details["integer"]
    assert {"value", "weights"}.isdisjoint(quantized_from(output))
    assert [str(refusal) for refusal in result.refusals] == ["node_mixed: kept in float: an option names it"]


def test_a_product_without_finite_statistics_stays_float_and_says_why(tmp_path: Path) -> None:
    model = attention_block(tmp_path / "model.onnx")
    statistics = calibrate(model, sequences())
    del statistics.tensors["key"]
    _, result = quantize(model, sequences(), statistics)
    assert "node_scores: no statistics of 'key', which it multiplies" in [str(each) for each in result.refusals]


def test_a_tensor_that_others_read_in_between_is_quantized_at_the_product(tmp_path: Path) -> None:
    model = attention_block(tmp_path / "model.onnx")
    proto = onnx.load(model)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("value.moved", onnx.TensorProto.FLOAT, None))
    onnx.save(proto, model)
    types = quantized_from(quantize(model, sequences())[0])
    assert "value.moved" in types
    assert "value" not in types
    assert np.all([name in types for name in ("query", "key")])
