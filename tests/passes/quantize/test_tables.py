"""Embedding tables in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantizable import calibrate, run_all

from enginery.engines.onnxruntime import open_model
from enginery.passes.base import Feeds, PassResult
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model

WORDS, WIDTH = 4096, 32


def embedder(path: Path, *, words: int = WORDS, tied: bool = False) -> Path:
    """Rows of a table through a linear layer; `tied` multiplies with the table as well."""
    rng = np.random.default_rng(0)
    # The rows of rare words are a hundredth of the others, and one is zero.
    table = rng.normal(size=(words, WIDTH)) * np.where(np.arange(words) % 3, 1.0, 0.01)[:, None]
    table[5] = 0.0
    arrays = {"table": table, "weight": rng.normal(size=(WIDTH, 16))}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "lookup"),
        helper.make_node("MatMul", ["rows", "weight"], ["y"], "linear"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 16])]
    if tied:
        nodes += [
            helper.make_node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]),
            helper.make_node("MatMul", ["rows", "turned"], ["logits"], "head"),
        ]
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", words]))
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        outputs,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def ids() -> list[Feeds]:
    rng = np.random.default_rng(1)
    return [{"ids": rng.integers(0, 64, (4, 6))} for _ in range(4)]


def quantize(model: Path, policy: str, **options: Any) -> tuple[Path, PassResult]:
    output = model.with_name(f"{policy}.onnx")
    result = quantize_model(
        model, output, calibrate(model, ids), policy=get_policy(policy),
        options=QuantizeOptions(passes=(), **options), open_model=open_model, batches=ids,
    )  # fmt: skip
    onnx.checker.check_model(onnx.load(output), full_check=True)
    return output, result


def operators(model: Path) -> list[str]:
    return [node.op_type for node in onnx.load(model).graph.node]


def test_a_table_becomes_integers_with_a_scale_for_each_row(tmp_path: Path) -> None:
    """Cases 1 and 2: within half a step of each row's own grid, the zero row included."""
    model = embedder(tmp_path / "model.onnx")
    output, result = quantize(model, "onnxruntime-cpu", keep_float=("linear",))
    assert operators(output).count("Gather") == 2
    assert result.details["tables"] == {"table": {"float_bytes": 4 * WORDS * WIDTH, "bytes": WORDS * (WIDTH + 4)}}
    assert output.stat().st_size < 0.35 * model.stat().st_size
    table = numpy_helper.to_array(next(each for each in onnx.load(model).graph.initializer if each.name == "table"))
    weight = numpy_helper.to_array(next(each for each in onnx.load(model).graph.initializer if each.name == "weight"))
    step = np.abs(table).max(axis=1) / 127
    rows = np.concatenate([feeds["ids"].reshape(-1) for feeds in ids()])
    most = 0.5 * step[rows][:, None] * np.abs(weight).sum(axis=0)
    assert np.all(np.abs(run_all(model, ids) - run_all(output, ids)) <= most + 1e-5)


@pytest.mark.parametrize("policy", ["openvino", "tensorrt"])
def test_other_targets_keep_their_tables(tmp_path: Path, policy: str) -> None:
    output, result = quantize(embedder(tmp_path / "model.onnx"), policy)
    assert operators(output).count("Gather") == 1
    assert result.details["tables"] == {}


def test_a_small_table_stays(tmp_path: Path) -> None:
    output, _ = quantize(embedder(tmp_path / "model.onnx", words=64), "onnxruntime-cpu")
    assert operators(output).count("Gather") == 1


def test_a_table_that_is_the_output_layer_too_stays_and_says_why(tmp_path: Path) -> None:
    """Case 3."""
    output, result = quantize(embedder(tmp_path / "model.onnx", tied=True), "onnxruntime-cpu")
    assert operators(output).count("Gather") == 1
    assert ("lookup", "its table 'table' has other readers: it would be stored twice") in [
        (refusal.node, refusal.reason) for refusal in result.refusals
    ]


@pytest.mark.parametrize("name", ["lookup", "table"])
def test_options_keep_a_table_in_float(tmp_path: Path, name: str) -> None:
    output, result = quantize(embedder(tmp_path / "model.onnx"), "onnxruntime-cpu", keep_float=(name,))
    assert operators(output).count("Gather") == 1
    assert any(refusal.reason == "kept in float: an option names it" for refusal in result.refusals)


def test_a_second_run_finds_nothing(tmp_path: Path) -> None:
    from enginery.passes.graph.ir import load_graph
    from enginery.passes.quantize.tables import quantize_tables

    graph = load_graph(embedder(tmp_path / "model.onnx"))
    policy, options = get_policy("onnxruntime-cpu"), QuantizeOptions()
    assert quantize_tables(graph, policy, options).changed == 1
    assert quantize_tables(graph, policy, options).changed == 0
