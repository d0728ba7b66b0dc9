"""Every way to be wrong that a build can meet ends in exit code 1, at the right gate or stage, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_recipes import WIDTH, Weights, answer, data, run_build, weights, write_module_recipe, write_onnx, write_recipe

from enginery.engines.base import Arrays, Artifact, BuildSpec, Feeds, Session
from enginery.engines.onnxruntime import OnnxRuntimeCpu
from enginery.errors import DataError, EngineryError, GateRefusedError, StageError
from enginery.pipeline import build as build_module
from enginery.pipeline.line import graph as line_module
from enginery.pipeline.report import read_report

Spoil = Callable[[Arrays], Arrays]


class SpoiledSession(Session):
    """Answers as the real engine does, then spoils the answer: an engine with a fault of its own."""

    def __init__(self, real: Session, spoil: Spoil, says: Mapping[str, Any] | None) -> None:
        super().__init__(real.inputs, real.outputs, real.dims)
        self._real = real
        self._spoil = spoil
        self._says = says

    def _run(self, feeds: Feeds) -> Arrays:
        return self._spoil(self._real.run(feeds))

    def describe(self) -> dict[str, Any]:
        return {**self._real.describe(), **(self._says or {})}


class SpoiledEngine(OnnxRuntimeCpu):
    """The real engine with spoiled sessions. It is registered under the real one's name, in place of it."""

    def __init__(self, spoil: Spoil, says: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._spoil = spoil
        self._says = says

    def load(self, artifact: Artifact, spec: BuildSpec) -> Session:
        return SpoiledSession(super().load(artifact, spec), self._spoil, self._says)


def _refusal(recipe: Path, output: Path, **options: Any) -> GateRefusedError:
    with pytest.raises(GateRefusedError) as caught:
        run_build(recipe, output, **options)
    assert caught.value.exit_code == 1
    assert not list(output.rglob("manifest.json"))
    return caught.value


def _use(monkeypatch: pytest.MonkeyPatch, engine: SpoiledEngine) -> None:
    for module in (line_module, build_module):
        monkeypatch.setattr(module, "get_engine", lambda _target: engine)


def _shift(arrays: Arrays) -> Arrays:
    return {"y": arrays["y"] + np.float32(1e-3)}


SPOILED = {
    "off by a little": (_shift, "shapes", "largest relative error"),
    "output missing": (lambda _: {}, "outputs", "output 'y' is absent"),
    "NaN": (lambda a: {"y": a["y"] * np.float32("nan")}, "outputs", "NaN or infinite"),
    "another dtype": (lambda a: {"y": a["y"].astype(np.float64)}, "outputs", "has dtype float64; declared: float32"),
    "another shape": (lambda a: {"y": a["y"][:, :2]}, "outputs", "expected [8, 4]"),
    "zeros": (lambda a: {"y": a["y"] * 0}, "shapes", "largest relative error"),
    "wrong for big batches only": (
        lambda a: {"y": a["y"] * (2 if len(a["y"]) == 16 else 1)},
        "shapes",
        "at max (batch=16)",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_engine_that_answers_otherwise_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, gate, words = SPOILED[name]
    recipe = write_recipe(tmp_path / "recipe")
    _use(monkeypatch, SpoiledEngine(spoil))
    refusal = _refusal(recipe, tmp_path / "build")
    assert f"Gate {gate} refused tiny for onnxruntime-cpu in fp32" in str(refusal)
    assert words in str(refusal)
    report = read_report(tmp_path / "build" / "tiny" / "onnxruntime-cpu-fp32")
    assert not report.shipped
    assert {verdict.gate for verdict in report.gates if verdict.verdict == "refused"} >= {gate}


def test_an_engine_that_is_wrong_on_real_data_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def late(arrays: Arrays) -> Arrays:
        nonlocal calls
        calls += 1
        return _shift(arrays) if calls > 4 else arrays

    _use(monkeypatch, SpoiledEngine(late))
    refusal = _refusal(write_recipe(tmp_path / "recipe"), tmp_path / "build")
    assert "Gate accuracy-float refused" in str(refusal)


def test_an_engine_on_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, SpoiledEngine(lambda arrays: arrays, {"fallback": ["MatMul first on CPUExecutionProvider"]}))
    refusal = _refusal(write_recipe(tmp_path / "recipe"), tmp_path / "build")
    assert "Gate fallback refused" in str(refusal)
    assert "MatMul first" in str(refusal)


def test_a_wrong_expected_metric_is_refused(tmp_path: Path) -> None:
    metric = {"name": "top1", "max_drop": 0.01, "expected": 0.5}
    refusal = _refusal(write_recipe(tmp_path / "recipe", metric=metric), tmp_path / "build")
    assert "Gate expected-metric refused" in str(refusal)
    assert "the original measures 1; the recipe expects 0.5 ± 0.001" in str(refusal)


def test_a_metric_that_drops_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(arrays: Arrays) -> Arrays:
        return {"y": arrays["y"][:, ::-1].copy()}

    _use(monkeypatch, SpoiledEngine(turn))
    recipe = write_recipe(tmp_path / "recipe", metric={"name": "top1", "max_drop": 0.01})
    _refusal(recipe, tmp_path / "build")
    report = read_report(tmp_path / "build" / "tiny" / "onnxruntime-cpu-fp32")
    verdict = next(gate for gate in report.gates if gate.gate == "metric")
    assert verdict.verdict == "refused"
    assert verdict.figure is not None
    assert verdict.figure > 0.3
    assert verdict.bound == 0.01


def test_speed_that_is_not_reached_is_refused(tmp_path: Path) -> None:
    # No engine is a million times faster than itself in float: the verdict does not depend on the machine.
    recipe = write_recipe(tmp_path / "recipe", speed={"minimum": 1e6})
    refusal = _refusal(recipe, tmp_path / "build", precision="int8")
    assert "Gate speed refused" in str(refusal)
    assert "at least 1e+06" in str(refusal)


def test_a_ruined_quantization_is_refused(tmp_path: Path) -> None:
    # One channel of the second layer dwarfs the rest: one activation range cannot hold both, and no remedy may help.
    recipe = write_recipe(tmp_path / "recipe", precision={"mode": "int8", "passes": []})
    values = weights()
    values["w1"][:, 0] *= 3000.0
    values["w2"][0] /= 3000.0
    _renew(recipe, values)
    with pytest.raises(GateRefusedError, match=r"Gate (shapes|accuracy-int8) refused"):
        run_build(recipe, tmp_path / "build")


def _renew(recipe: Path, values: Weights) -> None:
    write_onnx(recipe.parent / "model.onnx", values)
    x = data(48, 2, weights())["x"]
    np.savez(recipe.parent / "evaluation.npz", x=x, labels=answer(x, values).argmax(1))


def test_an_output_near_zero_is_an_error_of_the_test(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    values = weights()
    values["w2"] *= 1e-12
    values["b2"] *= 1e-12
    _renew(recipe, values)
    refusal = _refusal(recipe, tmp_path / "build")
    assert "near zero, any tolerance would pass" in str(refusal)


@pytest.mark.parametrize("which", ["evaluation", "calibration"])
def test_a_nan_in_the_data_names_the_batch_and_the_input(tmp_path: Path, which: str) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    path = recipe.parent / f"{which}.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["x"][21, 3] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"(?s)batch 3.*input 'x'"):
        run_build(recipe, tmp_path / "build", precision="int8")


TOSSED = """
import os
import numpy as np

def batches():
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    yield {"x": generator.standard_normal((8, 32)).astype(np.float32)}
"""
GROWING = """
from pathlib import Path
import numpy as np

def batches():
    calls = Path(__file__).with_suffix(".calls")
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    for _ in calls.read_text():
        yield {"x": np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)}
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TOSSED, "Batch 1 of the evaluation data is not the one that the original answered"),
        (GROWING, "The evaluation data now goes on after its"),
    ],
)
def test_evaluation_data_that_differs_each_time_is_an_error(tmp_path: Path, source: str, words: str) -> None:
    recipe = write_recipe(tmp_path / "recipe", data={"evaluation": {"python": "unsteady.py:batches"}})
    (recipe.parent / "unsteady.py").write_text(source)
    with pytest.raises(DataError, match=words) as caught:
        run_build(recipe, tmp_path / "build")
    assert "fix seeds" in str(caught.value)


def test_int8_without_calibration_data_is_an_error(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", data={"evaluation": {"npz": "evaluation.npz"}})
    with pytest.raises(DataError, match="int8 needs calibration data and the recipe names none"):
        run_build(recipe, tmp_path / "build", precision="int8")


def test_random_calibration_passes_no_gate(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", data={"evaluation": {"npz": "evaluation.npz"}})
    refusal = _refusal(recipe, tmp_path / "build", precision="int8", random_data=True)
    assert "Gate data refused" in str(refusal)
    assert "calibrated on random data" in str(refusal)


def test_no_evaluation_data_is_refused(tmp_path: Path) -> None:
    refusal = _refusal(write_recipe(tmp_path / "recipe", data=None), tmp_path / "build")
    assert "compared on random inputs only; name real ones under `data.evaluation`" in str(refusal)


def test_data_out_of_the_declared_dimensions_is_an_error(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    np.savez(recipe.parent / "evaluation.npz", x=np.ones((4, WIDTH + 1), np.float32))
    with pytest.raises(DataError, match="'x'"):
        run_build(recipe, tmp_path / "build")


def test_an_output_declared_otherwise_than_the_original_returns(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", outputs={"y": {"dtype": "float32", "shape": ["batch", 5]}})
    with pytest.raises(StageError, match=r"declares the output y: float32\[batch, 5\]; the original returns y"):
        run_build(recipe, tmp_path / "build")


def test_an_output_that_the_original_lacks(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", outputs={"z": {"dtype": "float32", "shape": ["batch", 4]}})
    with pytest.raises(EngineryError, match=r"declares the outputs \['z'\]; the original returns \['y'\]"):
        run_build(recipe, tmp_path / "build")


def test_a_scaled_weight_between_export_and_engine_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine compiles another graph than the one that was checked."""

    class Tampering(OnnxRuntimeCpu):
        def build(self, model: Path, folder: Path, spec: BuildSpec) -> Artifact:
            values = weights()
            values["w2"] *= np.float32(1.01)
            other = folder.parent / "other.onnx"
            write_onnx(other, values)
            return super().build(other, folder, spec)

    for module in (line_module, build_module):
        monkeypatch.setattr(module, "get_engine", lambda _target: Tampering())
    refusal = _refusal(write_recipe(tmp_path / "recipe"), tmp_path / "build")
    assert "Gate shapes refused" in str(refusal)


def test_a_module_whose_original_answers_nan_is_refused(tmp_path: Path) -> None:
    source = """
import torch
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        return torch.log(x)


def build():
    return Net()
"""
    with pytest.raises((GateRefusedError, StageError), match="NaN or infinite"):
        run_build(write_module_recipe(tmp_path / "recipe", source), tmp_path / "build")
