"""Queries, keys and values are centred and evened out: exact in float, better in integers, and free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantizable import ModelBuilder, attention_block, sequences, snr
from remedies import Patient

from enginery.engines.onnxruntime import open_model
from enginery.passes.base import PassResult
from enginery.passes.graph import default_passes
from enginery.passes.quantize.remedies.attention import SmoothAttention
from enginery.passes.quantize.remedies.smooth import Smooth
from enginery.passes.sequence import run_graph_passes


def uneven(path: Path, **edits: np.ndarray) -> Path:
    """An attention whose keys and values have common offsets and channels of very different sizes."""
    model = onnx.load(attention_block(path))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        layer, _, kind = tensor.name.partition(".")
        if layer in ("key", "value"):
            array *= np.geomspace(0.1, 4, 32, dtype=np.float32)
        if kind == "bias" and layer in ("key", "value"):
            array += np.linspace(-6, 6, 32, dtype=np.float32)
        array = edits.get(tensor.name, array)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(array.dtype), tensor.name))
    onnx.save(model, path)
    return path


def treated(path: Path) -> tuple[Patient, PassResult]:
    patient = Patient(path, sequences(), "openvino")
    (result,) = patient.treat(SmoothAttention())
    return patient, result


def test_the_float_model_stays_the_same_and_the_integer_one_gains(tmp_path: Path) -> None:
    plain = Patient(uneven(tmp_path / "plain.onnx"), sequences(), "openvino")
    plain.treat()
    patient, result = treated(uneven(tmp_path / "model.onnx"))
    assert result.changed == 1
    assert result.details["attentions"] == ["value"]
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)
    before = snr(plain.reference(), plain.outputs())
    assert snr(patient.reference(), patient.outputs()) > before + 3


def test_one_product_for_queries_keys_and_values_takes_part_once_the_targets_passes_split_it(tmp_path: Path) -> None:
    """As timm's transformers write it: (batch, seq, part, head, size), transposed and cut along the parts."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    seen = b.op("Reshape", [b.linear("x", "qkv", 32, 96), b.weight("parts", np.array([0, 0, 3, 2, 16]))], "seen")
    moved = b.op("Transpose", [seen], "moved", perm=[2, 0, 3, 1, 4])
    query, key, value = (
        b.op("Gather", [moved, b.weight(f"{name}.at", np.array(at))], name, axis=0)
        for at, name in enumerate(("query", "key", "value"))
    )
    turned = b.op("Transpose", [key], "turned", perm=[0, 1, 3, 2])
    scores = b.op("Mul", [b.op("MatMul", [query, turned], "scores"), b.weight("scale", np.float32(0.25))], "scaled")
    mixed = b.op("MatMul", [b.op("Softmax", [scores], "weights", axis=-1), value], "mixed")
    joined = b.op("Transpose", [mixed], "joined", perm=[0, 2, 1, 3])
    b.linear(b.op("Reshape", [joined, b.weight("width", np.array([0, 0, 32]))], "flat"), "out", 32, 32)
    whole = b.save(tmp_path / "whole.onnx", "out")
    split = tmp_path / "split.onnx"
    feeds = list(sequences()())
    run_graph_passes(whole, split, default_passes("openvino-cpu"), open_model=open_model, feeds=feeds, prove="end")
    patient, result = treated(split)
    assert result.changed == 1
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)
    _, refused = treated(whole)
    assert refused.changed == 0


def test_no_node_is_added(tmp_path: Path) -> None:
    plain = Patient(uneven(tmp_path / "plain.onnx"), sequences(), "openvino")
    plain.treat()
    patient, _ = treated(uneven(tmp_path / "model.onnx"))
    nodes = [[node.op_type for node in onnx.load(each.placed).graph.node] for each in (plain, patient)]
    assert sorted(nodes[0]) == sorted(nodes[1])


def test_the_statistics_follow(tmp_path: Path) -> None:
    patient, _ = treated(uneven(tmp_path / "model.onnx"))
    key, value = (patient.context.tensors[name] for name in ("key", "value"))
    for statistics in (key, value):
        np.testing.assert_allclose(statistics.channel_mean, 0, atol=1e-5)
    np.testing.assert_allclose(value.channel_absmax, value.channel_absmax.max(), rtol=1e-5)


def test_behind_smooth_the_mul_takes_the_factors_back(tmp_path: Path) -> None:
    patient = Patient(uneven(tmp_path / "model.onnx"), sequences(), "openvino")
    _, result = patient.treat(Smooth(least_gain=-100.0), SmoothAttention())
    assert result.changed == 1
    np.testing.assert_allclose(patient.float_outputs(), patient.reference(), rtol=1e-4, atol=1e-4)
    assert snr(patient.reference(), patient.outputs()) > 25


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_a_policy_that_leaves_products_in_float_has_no_use_for_it(tmp_path: Path, policy: str) -> None:
    patient = Patient(uneven(tmp_path / "model.onnx"), sequences(), policy)
    (result,) = patient.treat(SmoothAttention())
    assert result.changed == 0
    assert "no product of two computed tensors is quantized" in str(result.refusals[0])


def edited(path: Path, change) -> Path:
    model = onnx.load(uneven(path))
    change(model.graph)
    onnx.save(model, path)
    return path


def drop_output_bias(graph) -> None:
    (node,) = (node for node in graph.node if node.name == "node_out")
    graph.node.remove(node)
    next(each for each in graph.node if each.output[0] == "out.product").output[0] = "out"


def drop_key_bias(graph) -> None:
    (node,) = (node for node in graph.node if node.name == "node_key")
    node.op_type = "Tanh"
    node.input.pop()


def negate_scores(graph) -> None:
    (node,) = (node for node in graph.node if node.op_type == "Softmax")
    graph.node.insert(list(graph.node).index(node), onnx.helper.make_node("Relu", ["scores"], ["raw"], "node_raw"))
    node.input[0] = "raw"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_output_bias, "no linear layer with a bias alone reads its result"),
        (drop_key_bias, "no linear layer with a bias makes its key"),
        (negate_scores, "its scores are no quantized product"),
    ],
)
def test_refusals_name_the_part_that_is_missing(tmp_path: Path, change, reason: str) -> None:
    _, result = treated(edited(tmp_path / "model.onnx", change))
    assert result.changed == 0
    assert [str(refusal) for refusal in result.refusals] == [f"node_mixed: {reason}"]


def test_nothing_changes_where_the_float_model_would_answer_otherwise(tmp_path: Path) -> None:
    """A key whose heads lie the other way round: channels of query and key do not meet in their order."""

    def swap(graph) -> None:
        nodes = {node.name: node for node in graph.node}
        graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 16, 2]), "split.other"))
        nodes["node_key.heads"].input[1] = "split.other"
        nodes["node_key.moved"].attribute[0].ints[:] = [0, 3, 2, 1]
        del graph.value_info[:]

    patient, result = treated(edited(tmp_path / "model.onnx", swap))
    assert result.changed == 0
    assert [str(refusal) for refusal in result.refusals] == ["graph: the float model would answer otherwise"]
    np.testing.assert_array_equal(patient.float_outputs(), patient.reference())


def test_a_second_run_changes_the_float_weights_no_more(tmp_path: Path) -> None:
    patient, _ = treated(uneven(tmp_path / "model.onnx"))
    before = patient.outputs()
    patient.treat(SmoothAttention())
    np.testing.assert_allclose(patient.outputs(), before, rtol=1e-3, atol=1e-3)
