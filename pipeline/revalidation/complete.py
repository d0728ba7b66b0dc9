"""Completes a bundle whose gates waited for a machine that can run its engine.

The bundle is written anew, whole and by one rename: verdicts, golden outputs, parts list, measurements and every form
of the report say what was measured here. Its engine and its graph stay, byte for byte. It is another bundle now, so an
earlier signature is gone, and the signer that was given signs it before it takes its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.engines.base import Feeds
from enginery.pipeline import bundle as bundles
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.manifest import FILE_NAME, GateVerdict, GoldenCase, Manifest, Verdict
from enginery.pipeline.bundle.placing import placing
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.deliver import MEASUREMENTS, place_lock
from enginery.pipeline.files import pretty_json
from enginery.pipeline.gates import TIMED_GATES, without_timing
from enginery.pipeline.line import Line
from enginery.pipeline.npz import write_npz
from enginery.pipeline.release.bom import BOM, render_bom
from enginery.pipeline.release.sign import Signer, sign_bundle
from enginery.pipeline.report import StageTime, read_report, write_report
from enginery.pipeline.report.completed import completed_report


@dataclass(frozen=True)
class Completion:
    """What was measured: figures, the verdict of every gate, the engine's golden outputs by case, times, durations."""

    measured: Measured
    verdicts: Sequence[GateVerdict]
    answers: Mapping[str, Feeds]
    timed: Mapping[str, Any]
    stages: Sequence[StageTime]


def complete(line: Line, bundle: Bundle, done: Completion, signer: Signer | None) -> None:
    """Write the bundle anew in its place, signed where a signer is given. An error leaves it as it was.

    Raises:
        UsageError, MissingDependencyError: the signer cannot sign.
        StageError: there is no room for it.
    """
    place = bundle.path.absolute()
    with line.store.lock(place_lock(place), lambda: None), placing(place) as fresh:
        shutil.copytree(place, fresh, dirs_exist_ok=True)
        for name in (*bundles.RELEASE_FILES, bundles.SUMS):
            (fresh / name).unlink(missing_ok=True)
        report = completed_report(
            read_report(place), line.recipe, done.measured, done.verdicts, done.timed, done.stages
        )
        write_report(report, fresh)
        measurements = json.loads((place / MEASUREMENTS).read_bytes())
        (fresh / MEASUREMENTS).write_text(pretty_json(_measurements(measurements, done)))
        (fresh / FILE_NAME).write_text(_manifest(bundle.manifest, fresh, done).to_json())
        bundles.write_sums(fresh)
        bundles.verify_digests(fresh)
        if signer is not None:
            sign_bundle(fresh, signer.key, password=signer.password, builder=signer.builder, name=place.name)


def _manifest(manifest: Manifest, fresh: Path, done: Completion) -> Manifest:
    """The manifest with the verdicts of here, and the files that follow from them: golden outputs, parts list."""
    golden = tuple(_with_outputs(case, fresh, done.answers[case.name]) for case in manifest.golden)
    added = [case.outputs for case in golden if case.outputs is not None]
    kept = {name: record for name, record in manifest.files.items() if name != BOM}
    completed = manifest.model_copy(
        update={
            "validated": True,
            "complete_with": None,
            "gates": tuple(without_timing(verdict) for verdict in done.verdicts),
            "allowed": tuple(sorted({v.gate for v in done.verdicts if v.verdict is Verdict.ALLOWED})),
            "golden": golden,
            "files": {**kept, **bundles.file_records(fresh, added)},
        }
    )
    (fresh / BOM).write_text(render_bom(completed, done.measured), encoding="utf-8")
    return completed.model_copy(update={"files": {**completed.files, **bundles.file_records(fresh, [BOM])}})


def _with_outputs(case: GoldenCase, folder: Path, outputs: Feeds) -> GoldenCase:
    name = f"golden/{case.name}.outputs.npz"
    write_npz(folder / name, outputs)
    return case.model_copy(update={"outputs": name})


def _measurements(before: Mapping[str, Any], done: Completion) -> dict[str, Any]:
    """What the build timed, and what was timed here."""
    stages = {f"{stage.stage} {stage.label}": {"seconds": stage.seconds} for stage in done.stages}
    timed = next(reversed(stages))
    return {
        **before,
        "stages": {**before["stages"], **stages, timed: {**stages[timed], **done.timed}},
        "gates": [verdict.model_dump(mode="json") for verdict in done.verdicts if verdict.gate in TIMED_GATES],
    }
