"""Weight-only int8 and int4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizable import ModelBuilder, mlp_block, run_all, sequences, snr

from enginery.engines.onnxruntime import open_model
from enginery.errors import UsageError
from enginery.passes.quantize import NodeOverride, QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.weight_only import quantize_blocks


def quantize(model: Path, policy: str, **options):
    output = model.with_name("quantized.onnx")
    result = quantize_model(
        model,
        output,
        None,
        policy=get_policy(policy),
        options=QuantizeOptions(**options),
        open_model=open_model,
        batches=None,
    )
    return output, result


@pytest.mark.parametrize(("mode", "least"), [("int8-weight", 35), ("int4-weight", 16)])
@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_answers_stay_close_and_weights_become_small(tmp_path: Path, policy: str, mode: str, least: float) -> None:
    model = mlp_block(tmp_path / "model.onnx", spread=0.0)
    output, result = quantize(model, policy, mode=mode)
    assert result.changed == 4
    assert snr(run_all(model, sequences()), run_all(output, sequences())) > least
    assert result.details["bytes"] < result.details["float_bytes"] * (0.2 if mode == "int4-weight" else 0.35)


def test_each_target_gets_its_own_form(tmp_path: Path) -> None:
    model = mlp_block(tmp_path / "model.onnx")
    ops = {}
    for policy in ("onnxruntime-cpu", "tensorrt"):
        output, _ = quantize(model, policy, mode="int4-weight")
        ops[policy] = {node.op_type for node in onnx.load(output).graph.node}
    assert "MatMulNBits" in ops["onnxruntime-cpu"]
    assert "MatMulNBits" not in ops["tensorrt"]
    assert "DequantizeLinear" in ops["tensorrt"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_of_zeros_has_a_scale_that_runtimes_take(bits: int, *, symmetric: bool) -> None:
    columns = np.zeros((2, 64), np.float32)
    columns[1, 40] = 3.0
    integers, scales = quantize_blocks(columns, bits, 32, symmetric=symmetric)
    assert (scales != 0).all()
    assert scales.ravel()[:3].tolist() == [1, 1, 1]
    np.testing.assert_allclose((integers * scales[..., None]).reshape(2, 64), columns, rtol=1e-6)


def gemm(path: Path, transposed: int) -> Path:
    b = ModelBuilder({"x": ("batch", 40)})
    shape = (24, 40) if transposed else (40, 24)
    b.op("Gemm", ["x", b.normal("w", *shape), b.normal("b", 24)], "y", transB=transposed)
    return b.save(path, "y")


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_in_both_layouts_with_a_length_that_is_no_multiple_of_the_block(
    tmp_path: Path, policy: str, transposed: int
) -> None:
    model = gemm(tmp_path / "model.onnx", transposed)

    def batches():
        yield {"x": np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)}

    output, result = quantize(model, policy, mode="int8-weight")
    assert result.changed == 1
    assert snr(run_all(model, batches), run_all(output, batches)) > 30


def test_nodes_left_in_float_and_computed_weights_are_refused_by_name(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    flipped = b.op("Transpose", ["x"], "flipped", perm=[0, 2, 1])
    b.op("MatMul", [b.linear("x", "kept", 32, 32), flipped], "scores")
    overrides = (NodeOverride(nodes="node_kept.*", quantize=False),)
    _, result = quantize(b.save(tmp_path / "m.onnx", "scores"), "tensorrt", mode="int8-weight", overrides=overrides)
    assert [str(refusal) for refusal in result.refusals] == [
        "node_kept.product: kept in float: an option names it",
        "node_scores: its weight is computed, not constant",
    ]


def test_a_block_size_that_no_runtime_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="block_size is 48"):
        quantize(mlp_block(tmp_path / "model.onnx"), "tensorrt", mode="int4-weight", block_size=48)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 70), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_every_weight_is_within_half_a_step(seed: int, length: int, bits: int, symmetric: bool) -> None:
    columns = np.random.default_rng(seed).standard_normal((3, length)).astype(np.float32)
    integers, scales = quantize_blocks(columns, bits, 32, symmetric=symmetric)
    back = (integers * scales[..., None]).reshape(3, -1)[:, :length]
    step = np.repeat(np.abs(scales), 32, axis=1)[:, :length]
    # One end of the asymmetric range lacks a level: what rounds to it is a whole step away at most.
    assert np.all(np.abs(back - columns) <= step * (0.5 if symmetric else 1.0) + 1e-6)


def test_dynamic_int8_answers_like_the_float_model(tmp_path: Path) -> None:
    model = mlp_block(tmp_path / "model.onnx", spread=0.0)
    output, result = quantize(model, "onnxruntime-cpu", mode="int8-dynamic")
    assert result.changed == 4
    assert snr(run_all(model, sequences()), run_all(output, sequences())) > 20


def test_dynamic_int8_is_refused_for_tensorrt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TensorRT refuses DynamicQuantizeLinear"):
        quantize(mlp_block(tmp_path / "model.onnx"), "tensorrt", mode="int8-dynamic")
