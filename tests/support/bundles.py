"""Bundles for tests, made through the product's own manifest and engine in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from enginery import __version__
from enginery.engines import get_engine
from enginery.engines.base import BuildSpec, DimRange, TensorSpec
from enginery.pipeline.bundle import file_records, write_sums
from enginery.pipeline.bundle.manifest import (
    DimRecord,
    EngineRecord,
    GateVerdict,
    GoldenCase,
    Manifest,
    Signature,
    StageRecord,
    Verdict,
)
from enginery.pipeline.files import files_below, pretty_json
from enginery.pipeline.npz import write_npz

DIMS = {"batch": DimRange(1, 4, 8)}
INPUT = TensorSpec("x", "float32", ("batch", 6))
OUTPUT = TensorSpec("y", "float32", ("batch", 3))
MEASUREMENTS = ("report.json", "report.md")
CASES = {"min": 1, "opt": 4, "max": 8}


def tiny_model(path: Path, seed: int = 0) -> np.ndarray:
    """Write y = x·W + 1 with x [batch, 6] and y [batch, 3]; return W."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(seed).standard_normal((6, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], "linear"), helper.make_node("Add", ["h", "b"], ["y"], "bias")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(3, np.float32), "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return weight


def make_bundle(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write an `onnxruntime-cpu` fp32 bundle of the tiny model.

    Args:
        folder: the bundle; it must not exist.
        seed: of the weights, so that two bundles can differ.
        changes: fields of the manifest to set otherwise.
    """
    (folder / "golden").mkdir(parents=True)
    (folder / "engine").mkdir()
    weight = tiny_model(folder / "model.onnx", seed)
    artifact = get_engine("onnxruntime-cpu").build(
        folder / "model.onnx", folder / "engine", BuildSpec((INPUT,), (OUTPUT,), DIMS)
    )
    golden = [_golden(folder, case, size, weight) for case, size in CASES.items()]
    (folder / "report.json").write_text(pretty_json({"model": "tiny", "seconds": 1.5}))
    (folder / "report.md").write_text("# tiny\n")
    listed = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    fields: dict[str, Any] = {
        "name": "tiny",
        "target": "onnxruntime-cpu",
        "precision": "fp32",
        "enginery": __version__,
        "validated": True,
        "engine": EngineRecord(
            folder="engine", entry=artifact.entry, options=dict(artifact.options), facts=dict(artifact.facts)
        ),
        "graph": "model.onnx",
        "inputs": (Signature(name="x", dtype="float32", shape=INPUT.shape),),
        "outputs": (Signature(name="y", dtype="float32", shape=OUTPUT.shape),),
        "dims": {name: DimRecord(min=dim.min, opt=dim.opt, max=dim.max) for name, dim in DIMS.items()},
        "recipe": {"name": "tiny", "description": "y = x·W + 1"},
        "original": {"kind": "onnx", "weights_digest": "1" * 64},
        "data": {"evaluation": "2" * 64, "calibration": "3" * 64},
        "stages": (
            StageRecord(
                stage="export", label="", key="4" * 64, result="5" * 64, inputs={}, tools={"onnx": "1.20"}, record={}
            ),
        ),
        "gates": (
            GateVerdict(gate="accuracy", verdict=Verdict.PASSED, words="close", figure=1e-6, bound=1e-4),
            GateVerdict(gate="speed", verdict=Verdict.SKIPPED, words="a float engine"),
        ),
        "golden": tuple(golden),
        "files": file_records(folder, [name for name in listed if name not in MEASUREMENTS]),
        "measurements": MEASUREMENTS,
    }
    (folder / "manifest.json").write_text(Manifest(**{**fields, **changes}).to_json())
    write_sums(folder)
    return folder


def _golden(folder: Path, case: str, size: int, weight: np.ndarray) -> GoldenCase:
    x = np.random.default_rng(size).standard_normal((size, 6)).astype(np.float32)
    y = x @ weight + 1
    names = {kind: f"golden/{case}.{kind}.npz" for kind in ("inputs", "outputs", "original")}
    write_npz(folder / names["inputs"], {"x": x})
    write_npz(folder / names["outputs"], {"y": y})
    write_npz(folder / names["original"], {"y": y})
    return GoldenCase(name=case, **names)
