"""Delivery: a bundle appears at its place by one rename, or a report of the refusal takes that place."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery._version import __version__
from enginery.errors import EngineryError, IntegrityError
from enginery.pipeline import bundle as bundles
from enginery.pipeline.bundle import postprocess, preprocess
from enginery.pipeline.bundle.manifest import (
    FILE_NAME,
    DimRecord,
    EngineRecord,
    FileRecord,
    GateVerdict,
    GoldenCase,
    Manifest,
    Signature,
    StageRecord,
)
from enginery.pipeline.bundle.placing import placing
from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json, pretty_json
from enginery.pipeline.gates import TIMED_GATES, Question, without_timing
from enginery.pipeline.line import Line
from enginery.pipeline.recipe import Precision
from enginery.pipeline.release.bom import BOM, render_bom
from enginery.pipeline.report import Candidate, write_report
from enginery.pipeline.report.gather import make_report
from enginery.pipeline.store import Result

MEASUREMENTS: Final = "measurements.json"
RECORDS: Final = (
    "original.json",
    "compress.json",
    "export.json",
    "check.json",
    "shapes.json",
    "passes.json",
    "quantize.json",
    "artifact.json",
)
"""The files in which stages say what they did."""


@dataclass(frozen=True)
class Delivery:
    """What is delivered, and where."""

    line: Line
    target: str
    precision: Precision
    folder: Path
    candidates: tuple[Candidate, ...] = ()
    """What the engine was chosen from, where it was chosen by measurement."""

    @property
    def complete_with(self) -> str:
        return f"enginery validate {self.folder.name} --recipe {self.line.recipe.name}"


def refuse(delivery: Delivery, question: Question, verdicts: Sequence[GateVerdict]) -> None:
    """Put the report of a refused build in the bundle's place. A bundle that was there is gone: it was made of less."""
    report = make_report(
        delivery.line,
        delivery.target,
        delivery.precision,
        question,
        verdicts,
        shipped=False,
        candidates=delivery.candidates,
    )
    with _alone(delivery), placing(delivery.folder) as fresh:
        write_report(report, fresh)


def ship(delivery: Delivery, question: Question, verdicts: Sequence[GateVerdict], allow: Collection[str]) -> bool:
    """Put the bundle in its place. Returns True when it was there already, unchanged."""
    plan = _plan(delivery)
    manifest = _manifest(delivery, question, verdicts, allow, plan)
    parts = render_bom(manifest, question.measured)
    manifest = manifest.model_copy(update={"files": {**manifest.files, BOM: _record_of(parts.encode())}})
    report = make_report(
        delivery.line,
        delivery.target,
        delivery.precision,
        question,
        verdicts,
        shipped=True,
        complete_with=delivery.complete_with if question.deferred is not None else None,
        candidates=delivery.candidates,
    )
    with _alone(delivery):
        if _is_current(delivery.folder, manifest):
            return True
        with placing(delivery.folder) as fresh:
            for name, (result, source) in plan.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(result.path(source), fresh / name)
            _pin_tokenizer(delivery, fresh)
            (fresh / BOM).write_text(parts, encoding="utf-8")
            (fresh / MEASUREMENTS).write_text(pretty_json(_measurements(delivery, verdicts)))
            measured = (MEASUREMENTS, *write_report(report, fresh))
            (fresh / FILE_NAME).write_text(manifest.model_copy(update={"measurements": measured}).to_json())
            bundles.write_sums(fresh)
            _check_copied(fresh, plan)
    return False


def _check_copied(fresh: Path, plan: Plan) -> None:
    """What was copied is what the manifest promises, or nothing is shipped."""
    try:
        bundles.verify_digests(fresh)
    except IntegrityError:
        for result in {result.key.digest: result for result, _ in plan.values()}.values():
            result.verify()  # names the damaged result, which the next build replaces
        raise


def _alone(delivery: Delivery) -> AbstractContextManager[None]:
    """Keep other builds away from the bundle's place."""
    line = delivery.line
    stage = StageName("package", delivery.folder.name)
    waiting = "another build writes the same bundle"
    return line.store.lock(place_lock(delivery.folder), lambda: line.events.waiting(stage, waiting))


def place_lock(place: Path) -> str:
    """The name of the lock on a bundle's place."""
    return f"place-{digest_json(str(place.absolute()))}"


Plan = dict[str, tuple[Result, str]]
"""Every file of the bundle that a stage wrote: its path in the bundle -> (the result, the path in it)."""


def _plan(delivery: Delivery) -> Plan:
    line, target, precision = delivery.line, delivery.target, delivery.precision
    compiled, graph = line.compile(target, precision), line.graph(target, precision)
    plan: Plan = {name: (compiled, name) for name in compiled.files if name.startswith("engine/")}
    if _graph_name(compiled, graph) == "graph/model.onnx":
        plan |= {
            name.replace("model/", "graph/", 1): (graph, name) for name in graph.files if name.startswith("model/")
        }
    validated = _validated(delivery)
    for case in line.golden_cases():
        plan[f"golden/{case.name}.inputs.npz"] = (line.shapes_result, f"cases/{case.name}.inputs.npz")
        plan[f"golden/{case.name}.original.npz"] = (line.shapes_result, f"cases/{case.name}.outputs.npz")
        if validated is not None and f"golden/{case.name}.npz" in validated.files:
            plan[f"golden/{case.name}.outputs.npz"] = (validated, f"golden/{case.name}.npz")
    return plan


def _graph_name(compiled: Result, graph: Result) -> str:
    """Where the bundle keeps the engine's ONNX graph. Engines that run ONNX itself keep it once."""
    entry = f"engine/{compiled.json('artifact.json')['entry']}"
    same = compiled.files.get(entry) == graph.files["model/model.onnx"]
    return entry if same else "graph/model.onnx"


def _validated(delivery: Delivery) -> Result | None:
    return next((r for s, r in delivery.line.results.items() if s.stage == "validate"), None)


def _manifest(
    delivery: Delivery, question: Question, verdicts: Sequence[GateVerdict], allow: Collection[str], plan: Plan
) -> Manifest:
    line, target, precision = delivery.line, delivery.target, delivery.precision
    compiled, graph = line.compile(target, precision), line.graph(target, precision)
    artifact = compiled.json("artifact.json")
    recipe = line.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    deferred = question.deferred is not None
    return Manifest(
        name=line.recipe.name,
        target=target,
        precision=precision.mode.value,
        enginery=__version__,
        validated=not deferred,
        complete_with=delivery.complete_with if deferred else None,
        engine=EngineRecord(
            folder="engine", entry=artifact["entry"], options=artifact["options"], facts=artifact["facts"]
        ),
        graph=_graph_name(compiled, graph),
        inputs=tuple(Signature(name=s.name, dtype=s.dtype, shape=s.shape) for s in line.inputs),
        outputs=tuple(Signature(name=s.name, dtype=s.dtype, shape=s.shape) for s in line.outputs),
        dims={name: DimRecord(min=dim.min, opt=dim.opt, max=dim.max) for name, dim in line.dims.items()},
        recipe={**recipe, "precision": precision.model_dump(mode="json")},
        original=line.load.json("original.json"),
        data=line.data_digests,
        stages=tuple(_stage_record(result) for result in line.results.values() if result.key.stage != "benchmark"),
        gates=tuple(without_timing(verdict) for verdict in verdicts),
        allowed=tuple(allow),
        golden=tuple(
            GoldenCase(
                name=case.name,
                inputs=f"golden/{case.name}.inputs.npz",
                outputs=name if (name := f"golden/{case.name}.outputs.npz") in plan else None,
                original=f"golden/{case.name}.original.npz",
            )
            for case in line.golden_cases()
        ),
        preprocess=preprocess.record(line.recipe),
        postprocess=postprocess.record(line.recipe, line.loaded.folder),
        files={
            name: FileRecord(sha256=result.files[source], size=result.path(source).stat().st_size)
            for name, (result, source) in sorted(plan.items())
        }
        | _tokenizer_record(line),
        measurements=(),
    )


def _tokenizer_record(line: Line) -> dict[str, FileRecord]:
    source = preprocess.tokenizer_source(line.recipe, line.loaded.folder)
    return {} if source is None else {preprocess.TOKENIZER: _record_of(source.read_bytes())}


def _pin_tokenizer(delivery: Delivery, fresh: Path) -> None:
    source = preprocess.tokenizer_source(delivery.line.recipe, delivery.line.loaded.folder)
    if source is not None:
        (fresh / preprocess.TOKENIZER).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, fresh / preprocess.TOKENIZER)


def _record_of(content: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _stage_record(result: Result) -> StageRecord:
    parts = result.key.parts
    record: dict[str, Any] = {name.removesuffix(".json"): result.json(name) for name in RECORDS if name in result.files}
    return StageRecord(
        stage=result.stage.stage,
        label=result.stage.label,
        key=result.key.digest,
        result=result.digest,
        inputs={name.removeprefix("input."): value for name, value in parts.items() if name.startswith("input.")},
        tools={
            name.removeprefix("tool."): value
            for name, value in parts.items()
            if name.startswith("tool.") and value != "absent"
        },
        record=record,
    )


def _measurements(delivery: Delivery, verdicts: Sequence[GateVerdict]) -> dict[str, Any]:
    """Everything that differs between two builds of one recipe: what was timed."""
    results = delivery.line.results
    return {
        "stages": {str(stage): {"seconds": result.seconds, **result.measured} for stage, result in results.items()},
        "gates": [verdict.model_dump(mode="json") for verdict in verdicts if verdict.gate in TIMED_GATES],
    }


def _is_current(folder: Path, manifest: Manifest) -> bool:
    """Whether exactly this bundle stands at its place, every file intact."""
    try:
        found = bundles.verify_digests(folder).manifest
    except EngineryError:
        return False
    return found == manifest.model_copy(update={"measurements": found.measurements})
