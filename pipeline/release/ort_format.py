"""Export to ONNX Runtime's `.ort` format, which its mobile builds load, run once to prove it.

The file holds the graph after the optimizations that do not depend on the processor, so it is the same on every machine
and runs on any. It answers the golden inputs before it is delivered.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.engines.base import Arrays
from enginery.engines.onnxruntime import import_onnxruntime, runtime_errors
from enginery.errors import EngineError, UsageError
from enginery.pipeline.bundle import Bundle, must_be_outside, verify_bundle
from enginery.pipeline.bundle.manifest import Manifest
from enginery.pipeline.bundle.selftest import check_golden
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.files import sha256_file, sync_folder, sync_tree


@dataclass(frozen=True)
class OrtModel:
    """The exported file, and how far its answers are from the bundle's own, output by output."""

    path: Path
    sha256: str
    cases: int
    figures: tuple[OutputFigures, ...]


def export_ort(bundle: Path, folder: Path, *, public_key: Path | None = None) -> OrtModel:
    """Write `<name>.ort` into `folder` and compare its answers with the golden outputs.

    Args:
        bundle: a bundle for onnxruntime-cpu; it is verified first.
        folder: where the file goes; made where it is absent, and a file of that name is replaced.
        public_key: demand a signature that this key verifies.

    Raises:
        UsageError: the bundle is for another target, or `folder` lies in it.
        IntegrityError: the bundle does not verify.
        EngineError: ONNX Runtime cannot write or load the file, or it answers otherwise than the bundle's engine.
    """
    must_be_outside(folder, bundle)
    bundle = bundle.resolve()
    manifest = verify_bundle(bundle, public_key=public_key).manifest
    if manifest.target != "onnxruntime-cpu":
        raise UsageError(f"{bundle} is for {manifest.target}; the .ort format holds engines for onnxruntime-cpu.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ort.") as work:
        fresh = Path(work) / f"{manifest.name}.ort"
        _convert(Bundle(bundle, manifest).artifact.path, fresh, manifest)
        figures = _compare(bundle, fresh, manifest)
        sync_tree(Path(work))
        path = folder / fresh.name
        shutil.move(fresh, path)
    sync_folder(folder)
    cases = sum(case.outputs is not None for case in manifest.golden)
    return OrtModel(path, sha256_file(path), cases, figures)


def _convert(source: Path, target: Path, manifest: Manifest) -> None:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Beyond "extended" ONNX Runtime lays tensors out for the processor at hand.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    disabled = list(manifest.engine.options.get("disabled_optimizers", ()))
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    except runtime_errors() as error:
        raise EngineError(f"onnxruntime {ort.__version__} cannot write {target.name}: {error}") from error
    if not target.is_file():
        raise EngineError(f"onnxruntime {ort.__version__} wrote no {target.name} and said nothing.")


def _compare(bundle: Path, path: Path, manifest: Manifest) -> tuple[OutputFigures, ...]:
    """Run the file on every golden case and hold its answers against the bundle's."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    names = [tensor.name for tensor in manifest.outputs]
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise EngineError(f"onnxruntime {ort.__version__} does not load {path.name}: {error}") from error

    def run(feeds: Arrays) -> Arrays:
        values: Sequence[Any] = session.run(names, dict(feeds))
        return dict(zip(names, values, strict=True))

    return check_golden(bundle, manifest, run, what=path.name)
