"""What a build refuses, and what it leaves behind then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_recipes import (
    INT8,
    change,
    run_build,
    weights,
    write_module_recipe,
    write_onnx,
    write_recipe,
)

from enginery.errors import EngineError, GateRefusedError, SourceError, StageError, UsageError
from enginery.pipeline.bundle import Bundle


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


def test_a_refused_build_leaves_its_report_and_no_bundle(recipe: Path, tmp_path: Path) -> None:
    shipped = run_build(recipe, tmp_path / "build", **INT8).bundle
    change(recipe, tolerances={"quantized": {"cosine": 1.0}})
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
    change(recipe, tolerances={"quantized": {"cosine": 1.0}})
    result = run_build(recipe, tmp_path / "build", allow=["accuracy-int8"], **INT8)
    manifest = Bundle.open(result.bundle).manifest
    assert manifest.allowed == ("accuracy-int8",)
    verdict = next(gate for gate in manifest.gates if gate.gate == "accuracy-int8")
    assert verdict.verdict.value == "allowed"
    assert "allowed by --allow" in verdict.words
