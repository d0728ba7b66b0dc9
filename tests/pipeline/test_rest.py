"""What stays float beside integers may be half precision, where the target has kernels for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_recipes import write_recipe

from enginery.errors import UsageError
from enginery.pipeline.events import Events
from enginery.pipeline.line import MODEL, Line
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

INT8 = Precision(mode=Mode.INT8, passes=())


def rest(kind: str, mode: str = "int8") -> Precision:
    return Precision.model_validate({"mode": mode, "passes": (), "rest": kind})


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(load_recipe(str(write_recipe(tmp_path / "tiny"))), Store.beside(tmp_path / "build"), Events())


@pytest.mark.parametrize("mode", ["int8", "int8-weight"])
def test_a_typed_graph_has_halves_between_its_integers(line: Line, mode: str) -> None:
    path = line.graph("tensorrt-rtx", rest("fp16", mode)).path(MODEL)
    graph = onnx.load(path).graph
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    kinds = {t.name: t.data_type for t in graph.initializer}
    assert scales
    assert {kinds[name] for name in scales} == {onnx.TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    x = np.random.default_rng(0).standard_normal((8, 32), dtype=np.float32)
    single = line.graph("tensorrt-rtx", rest("fp32", mode)).path(MODEL)
    (half,), (exact,) = (line.open_model(each)({"x": x}).values() for each in (path, single))
    # A value that falls on the other side of a rounding moves an output by a step, so that single outputs say little.
    assert np.sqrt(np.mean((half - exact) ** 2)) < 0.01 * np.abs(exact).max()


def test_integers_are_made_once_whatever_the_rest(line: Line) -> None:
    assert line.quantize("tensorrt-rtx", rest("fp16")).folder == line.quantize("tensorrt-rtx", INT8).folder


def test_an_engine_with_a_precision_of_its_own_gets_it_as_an_option(line: Line) -> None:
    assert line.spec("openvino-cpu", rest("bf16")).precision == "bf16"
    assert line.spec("openvino-cpu", INT8).precision == "fp32"
    assert line.graph("openvino-cpu", rest("bf16")).folder == line.graph("openvino-cpu", INT8).folder


@pytest.mark.parametrize(("target", "kind"), [("onnxruntime-cpu", "fp16"), ("openvino-cpu", "fp16")])
def test_a_target_without_such_kernels_refuses(line: Line, target: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"{target} has no engines in int8 with a rest in {kind}; targets that have: "):
        line.graph(target, rest(kind))


@pytest.mark.parametrize("mode", ["fp32", "bf16", "int8-dynamic", "auto"])
def test_a_precision_without_a_rest_refuses_one(mode: str) -> None:
    with pytest.raises(ValueError, match=f"the mode is {mode}; modes that have such a rest: int8, int8-weight"):
        rest("fp16", mode)
