"""Gathers what a build found out into the report that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from enginery._version import __version__
from enginery.pipeline.bundle.manifest import DimRecord, GateVerdict, Signature
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.gates import Question
from enginery.pipeline.line import NEEDS_STATISTICS, Line
from enginery.pipeline.recipe import Precision, Recipe
from enginery.pipeline.report import (
    Candidate,
    CaseErrors,
    Errors,
    Latency,
    MetricFigures,
    PassEffect,
    Report,
    Speedup,
    StageTime,
)
from enginery.pipeline.report.modules import compression_steps, module_pass_effects, module_pass_notes, original_bytes
from enginery.pipeline.report.quantization import depth_of, quantize_record, remedies_of
from enginery.pipeline.store import Result

NOT_RUN: Final = "The engine was not run here: "
"""How the note of a deferred build begins."""


def make_report(
    line: Line,
    target: str,
    precision: Precision,
    question: Question,
    verdicts: Sequence[GateVerdict],
    *,
    shipped: bool,
    complete_with: str | None = None,
    candidates: tuple[Candidate, ...] = (),
) -> Report:
    """Everything that the stages, the gates and the store know about this build."""
    results = list(line.results.values())
    measured = question.measured
    quantized = (quantize_record(line, target, precision) or {}).get("details", {})
    speedups = tuple(speedup for record in _timed(results) for speedup in speedups_of(record))
    sizes = _sizes(line, target, precision)
    return Report(
        name=line.recipe.name,
        description=line.recipe.description,
        target=target,
        precision=precision.mode.value,
        enginery=__version__,
        shipped=shipped,
        complete_with=complete_with,
        gates=tuple(verdicts),
        allowed=tuple(verdict.gate for verdict in verdicts if verdict.verdict == "allowed"),
        notes=tuple(_notes(line, question)),
        inputs=tuple(Signature(name=s.name, dtype=s.dtype, shape=s.shape) for s in line.inputs),
        outputs=tuple(Signature(name=s.name, dtype=s.dtype, shape=s.shape) for s in line.outputs),
        dims={name: DimRecord(min=dim.min, opt=dim.opt, max=dim.max) for name, dim in line.dims.items()},
        latencies=tuple(latency for record in _timed(results) for latency in latencies_of(record)),
        speedups=speedups,
        **accuracy_of(line.recipe, measured),
        candidates=candidates,
        sizes=sizes,
        kernels=dict(measured.kernels) or _facts(line, target, precision).get("kernels") or {},
        coverage=quantized.get("coverage"),
        depth=tuple(depth_of(line, target, precision, quantized)),
        remedies=tuple(remedies_of(quantized)),
        compression=tuple(
            compression_steps(
                line.compress,
                f"{target}, {precision.mode.value}",
                _metric(line.recipe, measured),
                sizes["engine"],
                speedups,
            )
        ),
        passes=tuple(_passes(line, target, precision)),
        stages=tuple(
            StageTime(
                stage=result.stage.stage,
                label=result.stage.label,
                seconds=result.seconds,
                reused=result.reused,
                why=result.why,
            )
            for result in results
        ),
        original=line.load.json("original.json"),
        data=line.data_digests,
        tools=_tools(results),
    )


def _errors(outputs: Sequence[OutputFigures]) -> tuple[Errors, ...]:
    return tuple(Errors.model_validate(output.to_json()) for output in outputs)


def _notes(line: Line, question: Question) -> Iterator[str]:
    for step in line.load.json("original.json")["preparation"]:
        yield f"Prepared for export: {step}."
    yield from module_pass_notes(line.compress)
    if question.deferred is not None:
        yield f"{NOT_RUN}{question.deferred}"
    if question.random_calibration:
        yield "Calibrated on random data."
    if not question.real_data:
        yield "The recipe names no evaluation data; shapes were run on seeded noise."


def accuracy_of(recipe: Recipe, measured: Measured) -> dict[str, Any]:
    """The fields of a report that say how an engine answered, and where."""
    return {
        "cases": tuple(CaseErrors(case=case.case, outputs=_errors(case.outputs)) for case in measured.cases),
        "evaluation": _errors(measured.evaluation),
        "metric": _metric(recipe, measured),
        "session": dict(measured.session),
    }


def _metric(recipe: Recipe, measured: Measured) -> MetricFigures | None:
    metric, found = recipe.metric, measured.metric
    if metric is None or found is None:
        return None
    return MetricFigures(
        name=metric.name or metric.python or "",
        original=found.original,
        engine=found.engine,
        max_drop=metric.max_drop,
        higher_is_better=metric.higher_is_better,
    )


def _timed(results: Sequence[Result]) -> Iterator[Mapping[str, Any]]:
    return (result.measured for result in results if result.stage.stage == "benchmark")


def latencies_of(record: Mapping[str, Any]) -> Iterator[Latency]:
    """The latencies in what the benchmark stage wrote."""
    for key, subject in (("candidate", "engine"), ("baseline", "float engine"), ("original", "original")):
        if (times := record.get(key)) is not None:
            yield Latency(
                subject=subject,
                case=record["case"],
                median_ms=1e3 * times["median"],
                low_ms=1e3 * times["p10"],
                high_ms=1e3 * times["p90"],
                runs=times["runs"],
            )


def speedups_of(record: Mapping[str, Any]) -> Iterator[Speedup]:
    """The ratios in what the benchmark stage wrote."""
    for key, baseline in (("speed", "float engine"), ("against_original", "original")):
        if (found := record.get(key)) is not None:
            yield Speedup(baseline=baseline, **found)


def _sizes(line: Line, target: str, precision: Precision) -> dict[str, int]:
    def size(result: Result, folder: str) -> int:
        return sum(result.path(name).stat().st_size for name in result.files if name.startswith(f"{folder}/"))

    exported, whole = size(line.export, "model"), original_bytes(line.compress)
    return {
        **({"original": exported} if whole is None else {"original": whole, "compressed": exported}),
        "graph": size(line.graph(target, precision), "model"),
        "engine": size(line.compile(target, precision), "engine"),
    }


def _facts(line: Line, target: str, precision: Precision) -> Mapping[str, Any]:
    return line.compile(target, precision).json("artifact.json")["facts"]


def _passes(line: Line, target: str, precision: Precision) -> Iterator[PassEffect]:
    yield from module_pass_effects(line.compress)
    optimized = line.optimize(target)
    seconds = optimized.measured.get("pass_seconds", {})
    for number, entry in enumerate(optimized.json("passes.json")):
        yield PassEffect(
            stage="optimize",
            spec=entry["spec"],
            changed=entry["changed"],
            refusals=tuple(entry["refusals"]),
            details=entry["details"],
            seconds=seconds.get(str(number)),
            nodes_before=entry["nodes_before"],
            nodes_after=entry["nodes_after"],
        )
    if precision.mode in NEEDS_STATISTICS:
        yield from _binding(line.statistics(target, precision))
    if (entry := quantize_record(line, target, precision)) is not None:
        yield PassEffect(
            stage="quantize",
            spec=f"quantize for {entry['policy']}",
            changed=entry["changed"],
            refusals=tuple(entry["refusals"]),
            details=entry["details"],
        )


def _binding(statistics: Result) -> Iterator[PassEffect]:
    """Which ranges the target did not find in the one calibration; nothing where its graph is the calibrated one."""
    if "binding.json" not in statistics.files:
        return
    entry: dict[str, Any] = statistics.json("binding.json")
    yield PassEffect(
        stage="bind",
        spec="statistics of the canonical graph",
        changed=entry["taken"],
        refusals=(*entry["measured"], *entry["lacking"]),
        details={"taken": entry["taken"], "measured": len(entry["measured"]), "lacking": len(entry["lacking"])},
    )


def _tools(results: Sequence[Result]) -> dict[str, str]:
    parts = {name: value for result in results for name, value in result.key.parts.items()}
    return {
        name.removeprefix("tool."): value
        for name, value in sorted(parts.items())
        if name.startswith("tool.") and value != "absent"
    }
