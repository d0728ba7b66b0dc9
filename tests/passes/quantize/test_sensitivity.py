"""Sensitivity and the mixed-precision search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import ModelBuilder, calibrate, sequences

from enginery.engines.onnxruntime import open_model
from enginery.passes.quantize import (
    QuantizeOptions,
    Sensitivity,
    get_policy,
    measure_sensitivity,
    search_mixed_precision,
)
from enginery.passes.quantize.sensitivity import NodeSensitivity


def uneven(path: Path) -> Path:
    """Three linear layers; an outlier channel makes the input of the second hard to quantize."""
    b = ModelBuilder({"x": ("batch", "seq", 32)})
    gain = np.ones(32, np.float32)
    gain[3] = 300
    x = b.op("Mul", [b.linear("x", "easy", 32, 32), b.weight("gain", gain)], "outlier")
    x = b.op("LayerNormalization", [b.linear(x, "hard", 32, 32), b.weight("one", np.ones(32, np.float32))], "norm")
    return b.save(path, b.linear(x, "last", 32, 32))


def test_the_hard_layer_comes_first(tmp_path: Path) -> None:
    model = uneven(tmp_path / "model.onnx")
    found = measure_sensitivity(
        model,
        calibrate(model, sequences()),
        policy=get_policy("tensorrt"),
        options=QuantizeOptions(),
        open_model=open_model,
        batches=sequences(),
    )
    hard = found.nodes[0]
    assert hard.node == "node_hard.product"
    assert hard.alone == min(node.alone for node in found.nodes)
    assert hard.without > found.all_quantized
    assert len(found.nodes) == 3


RANKED = Sensitivity(tuple(NodeSensitivity(f"n{index}", 10.0 + index, 30.0 - index) for index in range(8)), 5.0)


@pytest.mark.parametrize("needed", range(9))
def test_the_search_finds_the_least_number_of_float_nodes(needed: int) -> None:
    found = search_mixed_precision(RANKED, QuantizeOptions(), lambda options: len(options.keep_float) >= needed)
    assert found.options is not None
    assert found.options.keep_float == tuple(f"n{index}" for index in range(needed))
    assert len(found.trials) <= 5


def test_a_search_without_success_says_so_and_lists_its_trials() -> None:
    found = search_mixed_precision(RANKED, QuantizeOptions(), lambda _: False)
    assert found.options is None
    assert [len(trial.floating) for trial in found.trials] == [0, 8]
