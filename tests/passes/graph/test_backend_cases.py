"""The ONNX project's backend test cases still give their expected outputs after every cleaning pass."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from backend_cases import Case, agree, cases
from onnx.reference import ReferenceEvaluator

from enginery.errors import EngineryError
from enginery.passes.graph import CLEANING, graph_passes
from enginery.passes.graph.ir import export_model, import_model
from enginery.passes.graph.shapes import infer_shapes
from enginery.passes.sequence import check
from enginery.passes.spec import parse_pass

CHUNKS = 8


def run(model: onnx.ModelProto, inputs) -> list:
    """ONNX Runtime with its optimizations off where it has the operators, else ONNX's reference evaluator."""
    import onnxruntime as ort

    feeds = {value.name: data for value, data in zip(model.graph.input, inputs, strict=False) if data is not None}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    except Exception:  # noqa: BLE001 - the runtime's errors have no common base, and the evaluator decides
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(model).run(None, feeds)


def gives_what_is_expected(model: onnx.ModelProto, case: Case) -> bool:
    return all(agree(list(outputs), list(run(model, inputs)), case) for inputs, outputs in case.data)


def runs_here(case: Case) -> bool:
    """Neither ONNX Runtime nor the evaluator has every operator, and random ones have no expected output."""
    try:
        return gives_what_is_expected(case.model, case)
    except Exception:  # noqa: BLE001 - as above
        return False


def cleaned(case: Case) -> onnx.ModelProto:
    graph = import_model(onnx.ModelProto.FromString(case.model.SerializeToString()), Path())
    infer_shapes(graph)
    registry = graph_passes()
    for name in CLEANING:
        if parse_pass(name, registry).apply(graph).changed:
            check(graph)
            infer_shapes(graph)
    return export_model(graph)


def complaint(case: Case) -> str | None:
    try:
        model = cleaned(case)
    except (EngineryError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return f"{case.name}: {type(error).__name__}: {error}"
    try:
        return None if gives_what_is_expected(model, case) else f"{case.name}: other outputs"
    except Exception as error:  # noqa: BLE001 - as above; here it is a failure
        return f"{case.name}: no longer runs: {error}"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the evaluator divides by zero where a case asks for it
@pytest.mark.parametrize(
    "chunk", [pytest.param(i, marks=[pytest.mark.slow] if i >= CHUNKS // 2 else []) for i in range(CHUNKS)]
)
def test_cleaning_keeps_the_expected_outputs(chunk):
    chosen = [case for index, case in enumerate(cases().values()) if index % CHUNKS == chunk and runs_here(case)]
    assert len(chosen) > 150
    complaints = [text for case in chosen if (text := complaint(case)) is not None]
    assert not complaints, "\n".join(complaints)
