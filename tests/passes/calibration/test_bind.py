"""Statistics of one graph for another: what is taken, what is measured anew, and what stays unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, attention_block, calibrate, mlp_block, sequences

from enginery.engines.onnxruntime import open_model
from enginery.errors import StatisticsError
from enginery.passes.calibration import Bound, bind, graph_digest
from enginery.passes.graph import default_passes
from enginery.passes.graph.fusion.attention import FuseAttention
from enginery.passes.quantize import QuantizeOptions, get_policy, needed_tensors
from enginery.passes.sequence import run_graph_passes

REAL = sequences()


def bound(statistics, calibrated: Path, model: Path, needed, *, batches=REAL) -> Bound:
    return bind(
        statistics, calibrated, model, needed, feeds=list(sequences(2, seed=5)()), batches=batches,
        open_model=open_model,
    )  # fmt: skip


def line(path: Path, *names: str, gain: float = 1.0) -> Path:
    """A chain of three linear layers whose tensors have the given names; `gain` scales the second layer's result."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    first = b.op("MatMul", ["x", b.normal("w1", 32, 32)], names[0])
    weight = b.normal("w2", 32, 32)
    second = b.op("MatMul", [first, weight], "inner")
    scaled = b.op("Mul", [second, b.weight("gain", np.float32(gain))], names[1])
    return b.save(path, b.op("MatMul", [scaled, b.normal("w3", 32, 32)], "y"))


def test_the_same_graph_takes_everything(tmp_path: Path) -> None:
    model = mlp_block(tmp_path / "model.onnx")
    statistics = calibrate(model, sequences())
    assert bound(statistics, model, model, ["x"]).statistics is statistics


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "tensorrt"])
def test_a_lowered_attention_needs_nothing_more(tmp_path: Path, target: str) -> None:
    plain = attention_block(tmp_path / "plain.onnx")
    canonical, lowered = tmp_path / "canonical.onnx", tmp_path / "lowered.onnx"
    feeds = list(sequences(2)())
    run_graph_passes(plain, canonical, [FuseAttention()], open_model=open_model, feeds=feeds)
    run_graph_passes(plain, lowered, default_passes(target), open_model=open_model, feeds=feeds)
    assert graph_digest(canonical) != graph_digest(lowered)
    statistics = calibrate(canonical, sequences())
    needed = needed_tensors(lowered, get_policy(target), QuantizeOptions())
    found = bound(statistics, canonical, lowered, needed, batches=None)
    assert found.measured == found.lacking == ()
    assert set(needed) <= set(found.taken)
    assert found.statistics.graph_digest == graph_digest(lowered)
    for name, origin in found.taken.items():
        assert found.statistics.tensors[name] is statistics.tensors[origin]
    if target == "onnxruntime-cpu":
        assert "joined" in {origin for name, origin in found.taken.items() if name != origin}


def test_a_tensor_with_another_name_is_found_by_its_values(tmp_path: Path) -> None:
    one, other = line(tmp_path / "one.onnx", "a", "b"), line(tmp_path / "other.onnx", "a", "renamed")
    found = bound(calibrate(one, sequences()), one, other, ["x", "a", "renamed"])
    assert found.taken["renamed"] in ("inner", "b")
    assert found.measured == found.lacking == ()


def test_equal_extremes_are_not_equal_values(tmp_path: Path) -> None:
    """What saturates at both ends has the same range whatever lies between; only the means tell the two apart."""

    def saturated(name: str, shift: float) -> Path:
        b = ModelBuilder({"x": ("batch", "seq", 32)})
        wide = b.op("Mul", ["x", b.weight("ten", np.float32(10))], "wide")
        moved = b.op("Add", [wide, b.weight("shift", np.float32(shift))], "moved")
        ends = [b.weight("low", np.float32(-1)), b.weight("high", np.float32(1))]
        b.op("MatMul", [b.op("Clip", [moved, *ends], name), b.normal("w", 32, 32)], "y")
        return b.save(tmp_path / f"{name}.onnx", "y")

    one, other = saturated("a", 0.0), saturated("renamed", 3.0)
    found = bound(calibrate(one, sequences()), one, other, ["renamed"])
    assert [refusal.node for refusal in found.measured] == ["renamed"]
    same = saturated("again", 0.0)
    assert bound(calibrate(one, sequences()), one, same, ["again"]).taken["again"] == "a"


def test_a_tensor_without_a_counterpart_is_measured_on_the_targets_graph(tmp_path: Path) -> None:
    one, other = line(tmp_path / "one.onnx", "a", "b"), line(tmp_path / "other.onnx", "a", "renamed", gain=1.5)
    found = bound(calibrate(one, sequences()), one, other, ["x", "a", "renamed"])
    assert [(refusal.node, refusal.reason) for refusal in found.measured] == [
        ("renamed", "the calibrated graph has no tensor with its values")
    ]
    expected = calibrate(other, sequences()).tensors["renamed"]
    assert found.statistics.tensors["renamed"].high == pytest.approx(expected.high)
    assert found.statistics.tensors["renamed"].histogram.counts.sum() == expected.count


def test_a_name_that_means_other_values_is_not_believed(tmp_path: Path) -> None:
    one, other = line(tmp_path / "one.onnx", "a", "b"), line(tmp_path / "other.onnx", "a", "b", gain=1.5)
    found = bound(calibrate(one, sequences()), one, other, ["x", "a", "b"])
    assert [refusal.reason for refusal in found.measured] == ["the calibrated graph has a tensor 'b' with other values"]
    assert {"x", "a"} <= set(found.taken)


def test_without_the_data_what_is_unknown_is_said_and_absent(tmp_path: Path) -> None:
    one, other = line(tmp_path / "one.onnx", "a", "b"), line(tmp_path / "other.onnx", "a", "renamed", gain=1.5)
    statistics = calibrate(one, sequences())
    for batches in (None, sequences(seed=7)):
        found = bound(statistics, one, other, ["a", "renamed"], batches=batches)
        assert [refusal.node for refusal in found.lacking] == ["renamed"]
        assert "renamed" not in found.statistics.tensors


def test_statistics_of_a_third_graph_are_refused(tmp_path: Path) -> None:
    one, other = line(tmp_path / "one.onnx", "a", "b"), line(tmp_path / "other.onnx", "a", "renamed")
    statistics = calibrate(mlp_block(tmp_path / "third.onnx"), sequences())
    with pytest.raises(StatisticsError, match="belong to graph"):
        bound(statistics, one, other, ["a"])
