"""Export to ONNX Runtime's `.ort` format, which its mobile builds load, run once to prove it.

The file holds the graph after the optimizations that do not depend on the processor, so it is the same on every machine
and runs on any. It answers the golden inputs before it is delivered.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enginery.engines.onnxruntime import import_onnxruntime
from enginery.errors import EngineError, UsageError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.comparison import Comparer, Comparison, OutputFigures
from enginery.pipeline.files import sha256_file, sync_folder, sync_tree
from enginery.pipeline.manifest import Manifest
from enginery.pipeline.npz import read_npz

FLOAT_TOLERANCE: Final = 1e-4
COSINE_FLOOR: Final = 0.999
"""A quantized graph may round a few values to their neighbours when it is optimized otherwise; its answers stay this
close to the bundle's."""


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
        UsageError: the bundle is for another target.
        IntegrityError: the bundle does not verify.
        EngineError: ONNX Runtime cannot write or load the file, or it answers otherwise than the bundle's engine.
    """
    manifest = verify_bundle(bundle, public_key=public_key).manifest
    if manifest.target != "onnxruntime-cpu":
        raise UsageError(f"{bundle} is for {manifest.target}; the .ort format holds engines for onnxruntime-cpu.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ort.") as work:
        fresh = Path(work) / f"{manifest.name}.ort"
        _convert(Bundle(bundle, manifest).artifact.path, fresh, manifest)
        cases, figures = _compare(bundle, fresh, manifest)
        sync_tree(Path(work))
        path = folder / fresh.name
        shutil.move(fresh, path)
    path.chmod(0o644)
    sync_folder(folder)
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
    except Exception as error:
        raise EngineError(f"onnxruntime {ort.__version__} cannot write {target.name}: {error}") from error
    if not target.is_file():
        raise EngineError(f"onnxruntime {ort.__version__} wrote no {target.name} and said nothing.")


def _compare(bundle: Path, path: Path, manifest: Manifest) -> tuple[int, tuple[OutputFigures, ...]]:
    """Run the file on every golden case and hold its answers against the bundle's."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    specs = tuple(tensor.spec for tensor in manifest.outputs)
    comparer = Comparer(specs)
    cases = [case for case in manifest.golden if case.outputs is not None]
    if not cases:
        raise EngineError(f"{bundle} holds no golden outputs: nothing would show that {path.name} answers right.")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for case in cases:
            feeds, expected = read_npz(bundle / case.inputs), read_npz(bundle / str(case.outputs))
            values = session.run([spec.name for spec in specs], feeds)
            comparer.add(expected, dict(zip((spec.name for spec in specs), values, strict=True)), feeds)
    except Exception as error:
        raise EngineError(f"{path.name} does not run: {error}") from error
    figures = comparer.figures()
    for output in figures:
        if not _agrees(output, manifest.precision):
            raise EngineError(
                f"{path.name} answers otherwise than the bundle's engine: {output}. It was not delivered."
            )
    return len(cases), figures


def _agrees(output: OutputFigures, precision: str) -> bool:
    if precision == "fp32" or output.equal is not None:
        return bool(Comparison((output,), FLOAT_TOLERANCE))
    return not output.faults and output.cosine_min is not None and output.cosine_min >= COSINE_FLOOR
