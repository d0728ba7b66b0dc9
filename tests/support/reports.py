"""A report with every part filled in."""

from typing import Any

from enginery.pipeline.bundle.manifest import DimRecord, GateVerdict, Signature, Verdict
from enginery.pipeline.report import (
    CaseErrors,
    Depth,
    Errors,
    Latency,
    MetricFigures,
    PassEffect,
    RemedyEffect,
    Report,
    Speedup,
    StageTime,
)

ERRORS = Errors(
    name="y",
    samples=64,
    scale=2.0,
    max_abs=0.25,
    mean_abs=0.01,
    relative=0.125,
    cosine_mean=0.998,
    cosine_min=0.97,
    snr=24.5,
    top1=63 / 64,
)


def make_report(**changes: Any) -> Report:
    """A shipped int8 report of a tiny model; `changes` are fields to set otherwise."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "description": "y = x·W + 1",
        "target": "onnxruntime-cpu",
        "precision": "int8",
        "enginery": "0.1.0",
        "shipped": True,
        "gates": (
            GateVerdict(gate="shapes", verdict=Verdict.PASSED, words="cosine 0.998", figure=0.998, bound=0.9),
            GateVerdict(gate="speed", verdict=Verdict.PASSED, words="2.1 times", figure=2.1, bound=1.0),
            GateVerdict(gate="metric", verdict=Verdict.SKIPPED, words="the recipe names no task metric"),
        ),
        "notes": ("2 nodes stay in float",),
        "inputs": (Signature(name="x", dtype="float32", shape=("batch", 6)),),
        "outputs": (Signature(name="y", dtype="float32", shape=("batch", 3)),),
        "dims": {"batch": DimRecord(min=1, opt=4, max=8)},
        "evaluation": (ERRORS,),
        "cases": (CaseErrors(case="max (batch=8)", outputs=(ERRORS.model_copy(update={"samples": 8}),)),),
        "metric": MetricFigures(name="top1", original=0.98, engine=0.975, max_drop=0.01),
        "latencies": (
            Latency(subject="engine", case="opt (batch=4)", median_ms=1.0, low_ms=0.9, high_ms=1.2, runs=50),
            Latency(subject="float engine", case="opt (batch=4)", median_ms=2.1, low_ms=2.0, high_ms=2.4, runs=50),
        ),
        "speedups": (Speedup(baseline="float engine", speedup=2.1, low=2.0, high=2.2, confidence=0.95, pairs=50),),
        "sizes": {"original": 1000, "engine": 260},
        "kernels": {
            "counts": {"integer": 4, "quantize": 2, "float": 1, "other": 3},
            "heavy": {"integer": 4, "float": 1},
            "nodes": [{"node": "head", "op": "MatMul", "kind": "float", "heavy": True}],
        },
        "depth": (
            Depth(node="conv1", snr=40.0),
            Depth(node="conv2", snr=30.5, tensor="relu1", low=0.0, high=6.0, drawing="···▁█▂"),
        ),
        "remedies": (
            RemedyEffect(
                spec="smooth", kept=True, changed=2, before=20.0, after=27.5, worst_before=15.0, worst_after=24.0
            ),
            RemedyEffect(spec="equalize", kept=False, changed=0, before=27.5, reason="graph: no two convolutions"),
        ),
        "passes": (
            PassEffect(
                stage="optimize",
                spec="fold-constants",
                changed=3,
                refusals=({"node": "big", "reason": "not folded: too large"},),
                seconds=0.01,
                nodes_before=12,
                nodes_after=9,
            ),
        ),
        "stages": (
            StageTime(stage="load", seconds=1.0, reused=True, why="nothing changed"),
            StageTime(stage="compile", label="onnxruntime-cpu int8", seconds=0.5, reused=False, why="first build"),
        ),
        "original": {"kind": "factory", "weights_digest": "1" * 64},
        "data": {"calibration": "2" * 64},
        "tools": {"onnx": "1.23.2"},
        "session": {"runtime": "onnxruntime", "provider": "CPUExecutionProvider"},
    }
    return Report(**{**fields, **changes})
