"""The whole line on a recipe that builds in a second: what is delivered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_recipes import (
    INT8,
    MODULE,
    WIDTH,
    Recorder,
    answer,
    data,
    run_build,
    weights,
    write_module_recipe,
    write_recipe,
)

from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.files import files_below
from enginery.pipeline.npz import read_npz
from enginery.pipeline.report import read_report


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
    exact = answer(x, weights())
    if precision == "fp32":
        np.testing.assert_allclose(y, exact, atol=1e-5)
    # What the gates ask of int8 where the recipe says nothing.
    cosines = (y * exact).sum(axis=1) / np.linalg.norm(y, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.mean() >= 0.99
    assert cosines.min() >= 0.9


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


def test_two_builds_in_different_folders_give_the_same_manifest_and_files(recipe: Path, tmp_path: Path) -> None:
    one, two = (Bundle.open(run_build(recipe, tmp_path / name, **INT8).bundle) for name in ("a", "b"))
    assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()
    for name in one.manifest.files:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


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


def test_an_export_at_random_weights_is_the_same_in_every_process(tmp_path: Path) -> None:
    # `build()` draws weights; the recipe's seed fixes them.
    recipe = write_module_recipe(tmp_path / "recipe", seed=3)
    one, two = (run_build(recipe, tmp_path / name).bundle for name in ("a", "b"))
    assert (one / "engine" / "model.onnx").read_bytes() == (two / "engine" / "model.onnx").read_bytes()


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
