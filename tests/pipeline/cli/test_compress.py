"""compress, and its advice."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_recipes import data, weights, write_module_recipe, write_recipe

from enginery.pipeline.cli.main import cli


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_module_recipe(
        tmp_path / "recipe",
        metric={"name": "top1", "max_drop": 1},
        data={"training": {"npz": "training.npz"}, "evaluation": {"npz": "evaluation.npz"}},
        module_passes=["prune-channels{ratio=0.5}"],
    )
    taught = data(64, 7, weights())
    np.savez(tmp_path / "recipe" / "training.npz", x=taught["x"], labels=taught["labels"])
    return path


def test_compress_prints_where_the_record_of_the_passes_lies(recipe, tmp_path):
    result = invoke("compress", recipe, "-o", tmp_path / "build")
    assert result.exit_code == 0, result.output
    record = json.loads((Path(result.stdout.strip()) / "compress.json").read_text())
    assert record["passes"][0]["pass"] == "prune-channels{ratio=0.5}"
    assert record["passes"][0]["details"]["channels"] == {"first": [64, 32]}


def test_advice_draws_each_layer_and_ends_in_passes_to_copy(recipe, tmp_path):
    result = invoke("compress", recipe, "--advise", "--macs", "0.6", "-o", tmp_path / "build")
    assert result.exit_code == 0, result.output
    assert "first   prune" in result.stdout
    assert "module_passes:\n  - " in result.stdout
    assert "recover{epochs=5}" in result.stdout
    assert not list((tmp_path / "build").rglob("compress.json")), "advice stores nothing"


def test_advice_for_machines(recipe, tmp_path):
    found = json.loads(invoke("compress", recipe, "--advise", "--json", "-o", tmp_path / "build").stdout)
    assert found["by"] == "metric"
    assert {effect["layer"] for effect in found["effects"]} == {"first", "second"}
    assert all(proposal["macs"] <= 0.5 for proposal in found["proposals"])


def test_wrong_usage(tmp_path):
    plain = write_module_recipe(tmp_path / "plain")
    result = invoke("compress", plain, "-o", tmp_path / "build")
    assert (result.exit_code, "lists no `module_passes`" in result.stderr) == (2, True)
    onnx = write_recipe(tmp_path / "onnx")
    result = invoke("compress", onnx, "--advise", "-o", tmp_path / "build")
    assert (result.exit_code, "the source is an ONNX file" in result.stderr) == (1, True)
