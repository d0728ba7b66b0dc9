"""Builds every candidate of a model once and keeps it in the work folder, with its wall time and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from contest.cases import Case, load_feeds, save_feeds
from enginery.errors import EngineryError
from enginery.pipeline.choice.contest import with_options
from enginery.pipeline.comparison.shapes import fit
from enginery.pipeline.events import Events
from enginery.pipeline.line import MODEL, Line
from enginery.pipeline.recipe import Mode
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.stages.compile import open_artifact
from enginery.pipeline.store import Store

WORKER = Path(__file__).parent / "worker.py"
OWN = ("ort-optimizer", "ort-dynamic", "ort-static-minmax", "ort-static-entropy", "ort-static-percentile")
APART = ("onnxslim", "nncf", "modelopt")
"""Peers that live in environments of their own."""

OURS = (
    ("onnxruntime-cpu", Mode.FP32, {}),
    ("onnxruntime-cpu", Mode.INT8, {}),
    ("openvino-cpu", Mode.FP32, {}),
    ("openvino-cpu", Mode.BF16, {}),
    ("openvino-cpu", Mode.BF16, {"static_shapes": True}),
    ("openvino-cpu", Mode.INT8, {}),
    ("openvino-cpu", Mode.INT8, {"inference_precision": "bf16"}),
    ("openvino-cpu", Mode.INT8, {"static_shapes": True}),
)
WORDS = {"static_shapes": "static"}
"""Of options whose value says nothing by itself."""


@dataclass(frozen=True)
class Built:
    """One candidate: how it is opened (`kind`), from which file, and what building it took.

    `options` are plain data, so that another process can open it too. `reason` says why there is nothing to open.
    """

    name: str
    kind: str
    path: Path
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float | None = None
    peak_mb: float | None = None
    ours: bool = False
    integer: bool = False
    reason: str = ""

    @property
    def megabytes(self) -> float:
        """Of the file and its weights beside it."""
        beside = [self.path.with_suffix(".bin"), self.path.with_name(f"{self.path.name}.data")]
        return sum(file.stat().st_size for file in (self.path, *beside) if file.exists()) / 1e6


@dataclass
class Builder:
    """Builds for one model into `work/<model>/`."""

    case: Case
    work: Path
    peers: Path
    threads: int

    def __post_init__(self) -> None:
        loaded = load_recipe(self.case.recipe)
        shapes = tuple(dict(shape.sizes) for shape in self.case.shapes)
        self.loaded = replace(loaded, recipe=loaded.recipe.model_copy(update={"shapes": shapes}))
        self.folder = self.work / self.loaded.recipe.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.line = self._line({})

    def everything(self, *, quick: bool) -> Iterator[Built]:
        """Every candidate, built where it is not yet; `quick` leaves out those that take minutes to build."""
        model = self.exported
        yield Built("torch", "torch", model)
        if not quick:
            yield Built("torch compile", "torch-compile", model)
        yield Built("onnxruntime", "onnxruntime", model)
        yield Built("openvino f32", "openvino", model, {"inference_precision": "f32"})
        yield Built("openvino bf16", "openvino", model, {"inference_precision": "bf16"})
        yield Built("openvino bf16 static", "openvino", model, {"inference_precision": "bf16", "static": True})
        names = (*OWN, *APART) if not quick else ("ort-dynamic", "nncf")
        for name in names:
            if name != "ort-optimizer" or self.case.text:
                yield (built := self._peer(name, model))
                if name == "nncf":
                    yield replace(built, name="nncf static", options={**built.options, "static": True})
        for target, mode, options in OURS:
            yield self._ours(target, mode, options)

    def evaluation(self) -> list[dict[str, Any]]:
        """Real inputs for the fidelity: batches as they come, and the first one at every shape that is measured."""
        path = self.folder / "evaluation.npz"
        if not path.exists():
            assert self.line.evaluation is not None
            feeds = [dict(batch.inputs) for batch in islice(self.line.evaluation.batches(), 8)]
            save_feeds(path, [*feeds, *(fit(feeds[0], self.line.inputs, shape.sizes) for shape in self.case.shapes)])
        return load_feeds(path)

    @property
    def exported(self) -> Path:
        """The plain export, which every peer begins from."""
        return self.line.export.path(MODEL)

    def module(self) -> Any:
        return self.line.original.fresh()

    def _line(self, engine: Mapping[str, Mapping[str, Any]]) -> Line:
        loaded = self.loaded
        for target, options in engine.items():
            loaded = with_options(loaded, target, options)
        return Line(loaded, Store.beside(self.work), Events())

    def _ours(self, target: str, mode: Mode, options: Mapping[str, Any]) -> Built:
        line = self._line({target: {"threads": self.threads, **options}})
        name = f"enginery {target} {mode.value}" + "".join(
            f" {WORDS.get(key, value)}" for key, value in options.items()
        )
        precision = self.loaded.recipe.precision.model_copy(update={"mode": mode})
        begin = time.perf_counter()
        try:
            compiled = line.compile(target, precision)
        except EngineryError as error:
            return Built(name, "enginery", self.folder, ours=True, reason=str(error))
        compiled.verify()
        entry = next(compiled.path(file) for file in compiled.files if file.endswith((".xml", ".onnx")))
        return Built(
            name, "enginery", entry,
            {"target": target, "artifact": open_artifact(compiled.folder), "spec": line.spec(target, precision)},
            self._seconds(name, compiled.digest, time.perf_counter() - begin), ours=True, integer=mode is Mode.INT8,
        )  # fmt: skip

    def _seconds(self, name: str, digest: str, seconds: float) -> float:
        """What the engine of this digest took when it was built; later calls only read the store."""
        record = self.folder / f"{name}.json"
        if record.exists() and (known := json.loads(record.read_text()))["digest"] == digest:
            return known["seconds"]
        record.write_text(json.dumps({"digest": digest, "seconds": seconds}))
        return seconds

    def _peer(self, name: str, model: Path) -> Built:
        integer = name not in ("ort-optimizer", "onnxslim")
        kind, suffix = ("openvino", ".xml") if name == "nncf" else ("onnxruntime", ".onnx")
        path, record = self.folder / f"{name}{suffix}", self.folder / f"{name}.json"
        python = Path(sys.executable) if name in OWN else self.peers / name / "bin" / "python"
        if not python.exists():
            return Built(name, kind, path, integer=integer, reason=f"no environment {name}: see bench/contest/setup")
        if not record.exists():
            record.write_text(json.dumps(self._run(python, name, model, path)))
        found = json.loads(record.read_text())
        options = {"inference_precision": "f32"} if kind == "openvino" else {}
        return Built(
            name, kind, path, options, found.get("seconds"), found.get("peak_mb"), integer=integer,
            reason=found.get("reason", ""),
        )  # fmt: skip

    def _run(self, python: Path, name: str, model: Path, path: Path) -> dict[str, Any]:
        calibration = self.folder / "calibration.npz"
        if not calibration.exists():
            feeds = self.line.calibration_feeds()
            save_feeds(calibration, [dict(each) for each in islice(feeds(), 12)])
        command = [str(python), str(WORKER), name, str(model), str(path), str(calibration)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
        except subprocess.TimeoutExpired:
            return {"reason": "took more than 300 s to build"}
        if done.returncode or not path.exists():
            return {"reason": f"failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:160]}"}
        return json.loads(done.stdout.strip().splitlines()[-1])
