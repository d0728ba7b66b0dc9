"""What is quantized, and why the rest is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, calibrate, run_all

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph.ir import load_graph
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.options import NodeOverride
from enginery.passes.quantize.plan import make_plan

ROWS = [{"x": np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32)} for seed in range(4)]


def gemm(path: Path, *, weight: np.ndarray | None = None, **attrs: float) -> Path:
    b = ModelBuilder({"x": (4, 4)})
    matrix = b.normal("w", 4, 4) if weight is None else b.weight("w", weight)
    return b.save(path, b.op("Gemm", ["x", matrix, b.normal("b", 4)], "y", **attrs))


def matmul(path: Path, weight: np.ndarray, before: str = "") -> Path:
    b = ModelBuilder({"x": (4, 4)})
    x = b.op(before, ["x"], "before") if before else "x"
    return b.save(path, b.op("MatMul", [x, b.weight("w", weight.astype(np.float32))], "y"))


def refusal(model: Path, options: QuantizeOptions | None = None, policy: str = "onnxruntime-cpu") -> str:
    """The one reason for which the one layer stays in float; the quantized file answers like the model."""
    options = options or QuantizeOptions(passes=())
    statistics = calibrate(model, lambda: ROWS)
    plan = make_plan(load_graph(model), get_policy(policy), options, statistics.tensors)
    assert plan.compute == []
    output = model.with_name("quantized.onnx")
    quantize_model(
        model, output, statistics, policy=get_policy(policy), options=options, open_model=open_model,
        batches=lambda: ROWS,
    )  # fmt: skip
    np.testing.assert_array_equal(run_all(output, lambda: ROWS), run_all(model, lambda: ROWS))
    (found,) = plan.refusals
    assert found.node == "node_y"
    return found.reason


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt", "openvino"])
@pytest.mark.parametrize("attrs", [{"alpha": 0.5}, {"beta": 2.0}])
def test_a_gemm_that_scales_stays_in_float(tmp_path: Path, attrs, policy: str) -> None:
    assert refusal(gemm(tmp_path / "model.onnx", **attrs), policy=policy) == "alpha or beta is not 1"


def test_a_gemm_of_transposed_data_stays_in_float(tmp_path: Path) -> None:
    assert refusal(gemm(tmp_path / "model.onnx", transA=1)) == "its data input is transposed"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_stays_in_float(tmp_path: Path, value: float) -> None:
    weight = np.eye(4)
    weight[1, 2] = value
    assert refusal(matmul(tmp_path / "model.onnx", weight)) == "its weight 'w' holds NaN or infinity"


def test_a_weight_of_rank_3_stays_in_float(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((2, 4, 3))
    assert "has rank 3; integer kernels take rank 2" in refusal(matmul(tmp_path / "model.onnx", weight))


def test_data_that_was_not_finite_stays_in_float(tmp_path: Path) -> None:
    reason = refusal(matmul(tmp_path / "model.onnx", np.eye(4), before="Log"))  # of negative numbers, too
    assert reason == "its input 'before' was not finite during calibration"


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(passes=(), keep_float=("node_y",)),
        QuantizeOptions(passes=(), keep_float=("w",)),
        QuantizeOptions(passes=(), overrides=(NodeOverride("node_.*", quantize=False),)),
    ],
    ids=["by name", "by weight", "by an override"],
)
def test_what_the_options_keep_stays_in_float(tmp_path: Path, options: QuantizeOptions) -> None:
    assert refusal(matmul(tmp_path / "model.onnx", np.eye(4)), options) == "kept in float: an option names it"


def test_without_statistics_of_its_input_a_layer_stays_in_float(tmp_path: Path) -> None:
    graph = load_graph(matmul(tmp_path / "model.onnx", np.eye(4)))
    plan = make_plan(graph, get_policy("tensorrt"), QuantizeOptions(), {})
    assert [each.reason for each in plan.refusals] == ["no statistics of its input 'x'"]


def test_an_operator_without_an_integer_form_says_so_where_it_is_asked_for(tmp_path: Path) -> None:
    b = ModelBuilder({"x": (4, 4)})
    graph = load_graph(b.save(tmp_path / "model.onnx", b.op("Exp", ["x"], "y")))
    options = QuantizeOptions(overrides=(NodeOverride("node_y", quantize=True),))
    (found,) = make_plan(graph, get_policy("tensorrt"), options, {}).refusals
    assert found.reason == "policy 'tensorrt' has no integer form of Exp; it has Conv, Gemm, MatMul"
