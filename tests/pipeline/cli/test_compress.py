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
    measured = json.loads((Path(result.stdout.strip()).parent / "measured.json").read_text())
    assert measured["pass_latency"]["0"] > 0, "of the engine after the pass, over the original's"


@pytest.mark.parametrize("timed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_advice_draws_each_layer_and_ends_in_passes_to_copy(recipe, tmp_path, timed):
    page = tmp_path / "advice.html"
    options = ["--macs", "0.6", "--html", page, *([] if timed else ["--no-latency"])]
    result = invoke("compress", recipe, "--advise", "-o", tmp_path / "build", *options)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith(("first ", "second "))]
    # Parameters, bytes, MACs, and the engine's latency.
    assert {row.count("%") for row in rows} == {4 if timed else 3}
    assert "module_passes:\n  - " in result.stdout
    assert ("of the latency, " in result.stdout) == timed
    assert "recover{epochs=5}" in result.stdout
    assert not list((tmp_path / "build").rglob("compress.json")), "advice stores nothing"
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == (4 if timed else 3)
    assert "first prune" in text


def test_advice_for_machines_without_latency(recipe, tmp_path):
    found = json.loads(
        invoke("compress", recipe, "--advise", "--json", "--no-latency", "-o", tmp_path / "build").stdout
    )
    assert found["by"] == "metric"
    assert {effect["layer"] for effect in found["effects"]} == {"first", "second"}
    assert all(effect["latency_saved"] is None for effect in found["effects"])
    assert all(proposal["macs"] <= 0.5 for proposal in found["proposals"])


@pytest.mark.slow
def test_a_budget_that_nothing_reaches(recipe, tmp_path):
    result = invoke(
        "compress", recipe, "--advise", "--latency", "0.001", "--max-drop", "0.005", "-o", tmp_path / "build"
    )
    assert result.exit_code == 0, result.output
    assert "No way was found to leave at most 0% of the latency, and to lose at most 0.005." in result.stdout


def test_wrong_usage(tmp_path):
    plain = write_module_recipe(tmp_path / "plain")
    result = invoke("compress", plain, "-o", tmp_path / "build")
    assert (result.exit_code, "lists no `module_passes`" in result.stderr) == (2, True)
    for options in (["--latency", "0.5"], ["--advise", "--latency", "0.5", "--no-latency"]):
        result = invoke("compress", plain, *options, "-o", tmp_path / "build")
        assert result.exit_code == 2, options
        assert "--latency" in result.stderr
    onnx = write_recipe(tmp_path / "onnx")
    result = invoke("compress", onnx, "--advise", "-o", tmp_path / "build")
    assert (result.exit_code, "the source is an ONNX file" in result.stderr) == (1, True)
