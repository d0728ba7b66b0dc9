"""What a second build reuses, and what it builds anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_recipes import (
    INT8,
    Recorder,
    answer,
    change,
    data,
    run_build,
    stages_run,
    weights,
    write_onnx,
)

from enginery.errors import IntegrityError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.files import files_below


def test_a_second_build_runs_nothing_and_leaves_the_bundle_as_it_is(recipe: Path, tmp_path: Path) -> None:
    first = run_build(recipe, tmp_path / "build", **INT8)
    times = {path: path.stat().st_mtime_ns for path in files_below(first.bundle)}
    events = Recorder()
    second = run_build(recipe, tmp_path / "build", events, **INT8)
    assert events.ran == {}
    assert second.reused
    assert {path: path.stat().st_mtime_ns for path in files_below(second.bundle)} == times


@pytest.mark.parametrize("name", ["engine/model.onnx", "manifest.json", "report.md", "golden/min.inputs.npz"])
def test_a_bundle_that_was_touched_is_delivered_anew(recipe: Path, tmp_path: Path, name: str) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    assert not run_build(recipe, tmp_path / "build").reused
    verify_bundle(bundle)


def test_changed_calibration_data_rebuilds_what_depends_on_it(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build", **INT8)
    np.savez(recipe.parent / "calibration.npz", x=data(64, 9, weights())["x"])
    ran = stages_run(recipe, tmp_path / "build", **INT8)
    assert set(ran) == {
        "calibrate", "quantize (onnxruntime-cpu int8)", "compile (onnxruntime-cpu int8)",
        "validate (onnxruntime-cpu int8)", "benchmark (onnxruntime-cpu int8)",
    }  # fmt: skip
    assert ran["calibrate"] == "input calibration changed"


def test_changed_evaluation_data_calibrates_nothing_anew(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build", **INT8)
    values = data(96, 2, weights())
    np.savez(recipe.parent / "evaluation.npz", x=values["x"], labels=values["labels"])
    ran = stages_run(recipe, tmp_path / "build", **INT8)
    assert set(ran) == {"reference (shapes)", "reference (evaluation)", "validate (onnxruntime-cpu int8)"}


def test_changed_weights_rebuild_everything(recipe: Path, tmp_path: Path) -> None:
    before = run_build(recipe, tmp_path / "build")
    write_onnx(recipe.parent / "model.onnx", weights(5))
    ran = stages_run(recipe, tmp_path / "build")
    assert {"load", "reference (shapes)", "export", "compile (onnxruntime-cpu fp32)"} <= set(ran)
    assert "input source changed" in ran["load"]
    verify_bundle(before.bundle)
    x = data(3, 5, weights())["x"]
    with open_session(before.bundle) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], answer(x, weights(5)), atol=1e-5)


def test_a_changed_tolerance_runs_no_stage_and_stands_in_the_bundle(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    change(recipe, tolerances={"float": {"relative": 1e-5}})
    assert stages_run(recipe, tmp_path / "build") == {}
    manifest = Bundle.open(tmp_path / "build" / "tiny" / "onnxruntime-cpu-fp32").manifest
    assert {gate.gate: gate.bound for gate in manifest.gates}["accuracy-float"] == 1e-5


def test_a_gate_that_is_allowed_later_stands_in_the_bundle(recipe: Path, tmp_path: Path) -> None:
    first = run_build(recipe, tmp_path / "build")
    second = run_build(recipe, tmp_path / "build", allow=["metric"])
    assert not second.reused
    assert Bundle.open(first.bundle).manifest.allowed == ("metric",)


def test_a_changed_engine_option_compiles_anew(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    change(recipe, engine={"onnxruntime-cpu": {"threads": 1}})
    ran = stages_run(recipe, tmp_path / "build")
    assert "load" not in ran
    assert "config options.threads is new" in ran["compile (onnxruntime-cpu fp32)"]


def test_a_damaged_entry_is_noticed_by_the_next_build_that_reads_it(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    (graph,) = (tmp_path / "build" / ".store" / "results").glob("*/files/passes.json")
    model = graph.parent / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[::-1])
    ran = stages_run(recipe, tmp_path / "build")
    assert list(ran) == ["optimize (onnxruntime-cpu)"]
    assert "damaged" in ran["optimize (onnxruntime-cpu)"]


def test_damage_that_only_reading_shows_ships_nothing_and_heals(recipe: Path, tmp_path: Path) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    (entry,) = (tmp_path / "build" / ".store" / "results").glob("*/files/artifact.json")
    model = entry.parent / "engine" / "model.onnx"
    status = model.stat()
    model.write_bytes(model.read_bytes()[::-1])
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.rmtree(bundle)
    with pytest.raises(IntegrityError, match=r"engine/model\.onnx changed since it was stored\. Build again"):
        run_build(recipe, tmp_path / "build")
    assert not bundle.exists()
    verify_bundle(run_build(recipe, tmp_path / "build").bundle)


def test_the_store_can_stand_elsewhere(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_STORE", str(tmp_path / "store"))
    run_build(recipe, tmp_path / "one")
    assert stages_run(recipe, tmp_path / "two") == {}
    assert not (tmp_path / "two" / ".store").exists()
