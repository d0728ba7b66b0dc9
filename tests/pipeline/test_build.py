"""The whole line on a recipe that builds in a second: what is delivered, what is reused, what is rebuilt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_recipes import (
    MODULE,
    WIDTH,
    Recorder,
    answer,
    data,
    run_build,
    weights,
    write_module_recipe,
    write_onnx,
    write_recipe,
)

from enginery.errors import EngineError, GateRefusedError, IntegrityError, SourceError, StageError, UsageError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.files import files_below
from enginery.pipeline.npz import read_npz
from enginery.pipeline.report import read_report

INT8 = {"precision": "int8"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe")


def _ran(recipe: Path, output: Path, **options: Any) -> dict[str, str]:
    events = Recorder()
    run_build(recipe, output, events, **options)
    return events.ran


def _change(recipe: Path, **changes: Any) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **changes}, sort_keys=False))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_is_delivered_verified_and_runs(recipe: Path, tmp_path: Path, precision: str) -> None:
    result = run_build(recipe, tmp_path / "build", precision=precision)
    assert result.bundle == tmp_path / "build" / "tiny" / f"onnxruntime-cpu-{precision}"
    assert result.validated
    names = {path.relative_to(result.bundle).as_posix() for path in files_below(result.bundle)}
    assert {"engine/model.onnx", "manifest.json", "report.json", "report.md", "measurements.json"} <= names
    verify_bundle(result.bundle)
    report = read_report(result.bundle)
    assert [bool(report.depth), report.coverage == 1.0] == [precision == "int8"] * 2
    assert [bool(report.remedies), any(point.drawing for point in report.depth)] == [precision == "int8"] * 2
    x = data(5, 3, weights())["x"]
    with open_session(result.bundle) as session:
        y = session.run({"x": x})["y"]
    np.testing.assert_allclose(y, answer(x, weights()), atol=1e-5 if precision == "fp32" else 0.2)


def test_the_manifest_tells_what_was_built_and_checked(recipe: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(run_build(recipe, tmp_path / "build", **INT8).bundle).manifest
    assert [stage.stage for stage in manifest.stages] == [
        "load", "reference", "export", "optimize", "optimize", "calibrate", "quantize", "compile", "reference",
        "validate", "compile",
    ]  # fmt: skip
    assert {gate.gate for gate in manifest.gates} == {
        "data", "outputs", "shapes", "accuracy-float", "accuracy-int8", "expected-metric", "metric", "fallback",
        "speed",
    }  # fmt: skip
    assert manifest.inputs[0].shape == ("batch", WIDTH)
    assert manifest.outputs[0].shape == ("batch", 4)
    assert set(manifest.data) == {"calibration", "evaluation"}
    assert manifest.recipe["precision"]["mode"] == "int8"
    assert manifest.original["kind"] == "onnx"


def test_golden_outputs_are_what_the_engine_and_the_original_answer(recipe: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(run_build(recipe, tmp_path / "build", **INT8).bundle)
    assert [case.name for case in bundle.manifest.golden] == ["min", "odd", "opt"]
    for case in bundle.manifest.golden:
        feeds = read_npz(bundle.path / case.inputs)
        assert case.outputs is not None
        with open_session(bundle.path) as session:
            np.testing.assert_array_equal(session.run(feeds)["y"], read_npz(bundle.path / case.outputs)["y"])
        original = read_npz(bundle.path / case.original)["y"]
        np.testing.assert_allclose(original, answer(feeds["x"], weights()), atol=1e-5)


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


def test_two_builds_in_different_folders_give_the_same_manifest_and_files(recipe: Path, tmp_path: Path) -> None:
    one, two = (Bundle.open(run_build(recipe, tmp_path / name, **INT8).bundle) for name in ("a", "b"))
    assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()
    for name in one.manifest.files:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_changed_calibration_data_rebuilds_what_depends_on_it(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build", **INT8)
    np.savez(recipe.parent / "calibration.npz", x=data(64, 9, weights())["x"])
    ran = _ran(recipe, tmp_path / "build", **INT8)
    assert set(ran) == {
        "calibrate", "quantize (onnxruntime-cpu int8)", "compile (onnxruntime-cpu int8)",
        "validate (onnxruntime-cpu int8)", "benchmark (onnxruntime-cpu int8)",
    }  # fmt: skip
    assert ran["calibrate"] == "input calibration changed"


def test_changed_evaluation_data_calibrates_nothing_anew(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build", **INT8)
    values = data(96, 2, weights())
    np.savez(recipe.parent / "evaluation.npz", x=values["x"], labels=values["labels"])
    ran = _ran(recipe, tmp_path / "build", **INT8)
    assert set(ran) == {"reference (shapes)", "reference (evaluation)", "validate (onnxruntime-cpu int8)"}


def test_changed_weights_rebuild_everything(recipe: Path, tmp_path: Path) -> None:
    before = run_build(recipe, tmp_path / "build")
    write_onnx(recipe.parent / "model.onnx", weights(5))
    ran = _ran(recipe, tmp_path / "build")
    assert {"load", "reference (shapes)", "export", "compile (onnxruntime-cpu fp32)"} <= set(ran)
    assert "input source changed" in ran["load"]
    verify_bundle(before.bundle)


def test_a_changed_tolerance_runs_no_stage(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    _change(recipe, tolerances={"float": {"relative": 1e-5}})
    assert _ran(recipe, tmp_path / "build") == {}


def test_a_changed_engine_option_compiles_anew(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    _change(recipe, engine={"onnxruntime-cpu": {"threads": 1}})
    ran = _ran(recipe, tmp_path / "build")
    assert "load" not in ran
    assert "config options.threads is new" in ran["compile (onnxruntime-cpu fp32)"]


def test_a_damaged_entry_is_noticed_by_the_next_build_that_reads_it(recipe: Path, tmp_path: Path) -> None:
    run_build(recipe, tmp_path / "build")
    (graph,) = (tmp_path / "build" / ".store" / "results").glob("*/files/passes.json")
    model = graph.parent / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[::-1])
    ran = _ran(recipe, tmp_path / "build")
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
    assert _ran(recipe, tmp_path / "two") == {}
    assert not (tmp_path / "two" / ".store").exists()


def test_a_module_is_exported_and_its_outputs_named(tmp_path: Path) -> None:
    recipe = write_module_recipe(tmp_path / "recipe")
    bundle = Bundle.open(run_build(recipe, tmp_path / "build").bundle)
    assert [output.name for output in bundle.manifest.outputs] == ["output"]
    assert bundle.manifest.outputs[0].shape == ("batch", 4)
    export = next(stage for stage in bundle.manifest.stages if stage.stage == "export")
    assert export.record["export"] == {"exporter": "torch.onnx dynamo", "opset": 20}
    assert {case["case"] for case in export.record["check"]} == {"opt", "min", "max", "odd"}
    events = Recorder()
    run_build(recipe, tmp_path / "build", events)
    assert events.ran == {}


def test_no_trace_of_the_machine_is_in_what_two_builds_share(tmp_path: Path) -> None:
    recipe = write_module_recipe(tmp_path / "recipe")
    bundle = Bundle.open(run_build(recipe, tmp_path / "build").bundle)
    for name in ("manifest.json", *bundle.manifest.files):
        assert str(tmp_path).encode() not in (bundle.path / name).read_bytes(), name


def test_gates_that_wait_for_a_gpu_are_recorded_as_deferred(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from enginery.engines import get_engine

    if get_engine("tensorrt-rtx").cannot_run() is None:
        pytest.skip("this machine can run TensorRT-RTX engines")
    result = run_build(recipe, tmp_path / "build", target="tensorrt-rtx")
    manifest = Bundle.open(result.bundle).manifest
    assert not result.validated
    assert not manifest.validated
    assert manifest.complete_with == "enginery validate tensorrt-rtx-fp32 --recipe tiny"
    verdicts = {gate.gate: gate.verdict.value for gate in manifest.gates}
    assert verdicts["outputs"] == verdicts["shapes"] == verdicts["accuracy-float"] == "deferred"
    assert verdicts["data"] == "passed"
    assert all(case.outputs is None for case in manifest.golden)


def test_a_target_that_cannot_be_built_here_says_what_to_install(recipe: Path, tmp_path: Path) -> None:
    from enginery.engines import get_engine

    if get_engine("tensorrt").cannot_build() is None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(EngineError, match="compile: cannot build for tensorrt here"):
        run_build(recipe, tmp_path / "build", target="tensorrt")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "abacus"}, "Target 'abacus' is unknown. Targets: "),
        ({"precision": "int3"}, "Precision 'int3' is unknown here. Precisions: fp32, "),
        ({"allow": ["luck"]}, "No gate is called 'luck'. Gates: data, outputs, "),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(
    recipe: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run_build(recipe, tmp_path / "build", **options)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_the_target_lacks_is_refused_in_words(recipe: Path, tmp_path: Path, precision: str) -> None:
    with pytest.raises(UsageError, match=f"onnxruntime-cpu has no engines in {precision}; targets that have: "):
        run_build(recipe, tmp_path / "build", precision=precision)


def test_a_shape_baked_in_by_tracing_is_refused_with_the_case(tmp_path: Path) -> None:
    source = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1, 32))

    def forward(self, x):
        return x + self.bias.repeat(int(x.shape[0]), 1) * x.shape[0] if x.shape[0] < 9 else x * 3.0


def build():
    return Net()
"""
    recipe = write_module_recipe(tmp_path / "recipe", source)
    with pytest.raises(StageError, match=r"(?s)export: .*A dimension was baked in by tracing"):
        run_build(recipe, tmp_path / "build")


def test_an_onnx_file_with_a_fixed_batch_is_refused_with_the_case(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    write_onnx(recipe.parent / "model.onnx", weights(), batch=8)
    with pytest.raises(StageError, match=r"the original itself fails at the declared shape min \(batch=1\)"):
        run_build(recipe, tmp_path / "build")


def test_a_factory_that_raises_names_the_line(tmp_path: Path) -> None:
    recipe = write_module_recipe(tmp_path / "recipe", "def build():\n    raise RuntimeError('no weights here')\n")
    with pytest.raises(SourceError, match="no weights here"):
        run_build(recipe, tmp_path / "build")


def test_an_export_at_random_weights_is_the_same_in_every_process(tmp_path: Path) -> None:
    # `build()` draws weights; the recipe's seed fixes them.
    recipe = write_module_recipe(tmp_path / "recipe", seed=3)
    one, two = (run_build(recipe, tmp_path / name).bundle for name in ("a", "b"))
    assert (one / "engine" / "model.onnx").read_bytes() == (two / "engine" / "model.onnx").read_bytes()


def test_a_refused_build_leaves_its_report_and_no_bundle(recipe: Path, tmp_path: Path) -> None:
    shipped = run_build(recipe, tmp_path / "build", **INT8).bundle
    _change(recipe, tolerances={"quantized": {"cosine": 1.0}})
    with pytest.raises(GateRefusedError, match=r"Gate accuracy-int8 refused tiny .* --allow accuracy-int8"):
        run_build(recipe, tmp_path / "build", **INT8)
    assert all(path.name.startswith("report.") for path in shipped.iterdir())
    assert not (shipped / "manifest.json").exists()
    report = json.loads((shipped / "report.json").read_text())
    assert not report["shipped"]
    refused = [gate for gate in report["gates"] if gate["verdict"] == "refused"]
    assert [gate["gate"] for gate in refused] == ["accuracy-int8"]
    assert refused[0]["figure"] < refused[0]["bound"] == 1.0


def test_an_allowed_refusal_ships_and_is_recorded(recipe: Path, tmp_path: Path) -> None:
    _change(recipe, tolerances={"quantized": {"cosine": 1.0}})
    result = run_build(recipe, tmp_path / "build", allow=["accuracy-int8"], **INT8)
    manifest = Bundle.open(result.bundle).manifest
    assert manifest.allowed == ("accuracy-int8",)
    verdict = next(gate for gate in manifest.gates if gate.gate == "accuracy-int8")
    assert verdict.verdict.value == "allowed"
    assert "allowed by --allow" in verdict.words


def test_module_passes_run_before_the_export(tmp_path: Path) -> None:
    metric = {"name": "top1", "max_drop": 1.0}
    recipe = write_module_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"], metric=metric, seed=1)
    events = Recorder()
    bundle = Bundle.open(run_build(recipe, tmp_path / "build", events).bundle)
    assert {"compress", "reference (original)"} <= set(events.ran)
    record = next(stage for stage in bundle.manifest.stages if stage.stage == "compress").record["compress"]
    assert record["passes"][0]["pass"].startswith("prune-weights")
    assert record["passes"][0]["changed"] > 0
    # The engine answers like the pruned module; half of the weights that it holds are zero.
    verdicts = {gate.gate: gate.verdict.value for gate in bundle.manifest.gates}
    assert verdicts["accuracy-float"] == verdicts["metric"] == "passed"
    assert _zeros(bundle.path / "engine" / "model.onnx") > 0.4
    assert _ran(recipe, tmp_path / "build") == {}


def _zeros(path: Path) -> float:
    import onnx
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    weight = max(arrays, key=lambda array: array.size)
    return float((weight == 0).mean())


def test_module_passes_need_a_metric(tmp_path: Path) -> None:
    recipe = write_module_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"])
    with pytest.raises(GateRefusedError, match=r"Gate metric refused .* name a `metric` that bounds the loss"):
        run_build(recipe, tmp_path / "build")


def test_module_passes_cannot_work_on_an_onnx_file(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", module_passes=["prune-weights{ratio=0.5}"])
    with pytest.raises(SourceError, match=r"work on an nn\.Module; the source is an ONNX file"):
        run_build(recipe, tmp_path / "build")


REPOSITORY = {
    "engines/__init__.py": "WIDTH = 32\n",
    "models/__init__.py": "",
    "models/net.py": MODULE.replace(
        "import torch", "import torch\nfrom engines import WIDTH\nfrom pipeline import SCALE", 1
    ),
    "pipeline/__init__.py": "SCALE = 1.0\n",
    "passes/__init__.py": "raise ImportError('nobody asked for this package')\n",
    "entry.py": "from models.net import Net\n\n\ndef build():\n    return Net()\n",
}


@pytest.mark.slow
def test_a_research_repository_with_packages_called_like_ours_is_exported_from_inside(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "repository", source={"factory": "entry.py:build"})
    for name, text in REPOSITORY.items():
        (recipe.parent / name).parent.mkdir(exist_ok=True)
        (recipe.parent / name).write_text(text)
    command = [str(Path(sys.executable).parent / "enginery"), "build", "recipe.yaml"]
    done = subprocess.run(command, cwd=recipe.parent, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    verify_bundle(recipe.parent / "build" / "tiny" / "onnxruntime-cpu-fp32")
