"""The search for int8 within an allowed drop of the metric, on engines that are really built, run and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tiny_recipes import Recorder, run_build, write_recipe

from enginery.errors import GateRefusedError, UsageError
from enginery.pipeline.choice.search import search
from enginery.pipeline.cli.main import cli
from enginery.pipeline.line import Line
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

TOP1 = {"name": "top1", "max_drop": 0.5}
CPU = "onnxruntime-cpu"


def line_of(recipe: Path, output: Path) -> Line:
    return Line(load_recipe(str(recipe)), Store.beside(output), Recorder())


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def floors(snr: float) -> dict[str, object]:
    return {"metric": TOP1, "tolerances": {"quantized": {"snr": snr}}, "speed": {"required": False}}


def test_what_is_good_enough_is_all_in_int8(tmp_path: Path) -> None:
    line = line_of(write_recipe(tmp_path / "recipe", metric=TOP1), tmp_path / "build")
    found = search(line, CPU, line.recipe.precision, 10)
    assert found.chosen.floating == ()
    assert found.allowed == pytest.approx(0.1)
    assert len(found.tried) == 1
    assert found.chosen.ratio is not None


def test_nodes_stay_in_float_until_every_gate_passes_and_the_recipe_builds_so(tmp_path: Path) -> None:
    """All in int8 has about 42 dB; with the more sensitive one of two products in float it has more than 45."""
    recipe = write_recipe(tmp_path / "recipe", **floors(45.0))
    result = invoke("quantize", recipe, "-o", tmp_path / "build", "--target-metric-drop", "10", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["chosen"]["floating"]) == 1
    assert found["nodes"] == 2
    refusals = {tuple(each["floating"]): each["refusal"] for each in found["tried"]}
    assert "accuracy-int8" in refusals[()]
    assert refusals[tuple(found["chosen"]["floating"])] is None
    again = write_recipe(tmp_path / "recipe", **floors(45.0), precision=found["precision"])
    assert run_build(again, tmp_path / "build").validated


def test_the_text_ends_with_lines_for_the_recipe(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", **floors(45.0))
    text = invoke("quantize", recipe, "-o", tmp_path / "build", "--target-metric-drop", "10").stdout
    assert "Take 1 of 2 nodes in float" in text
    lines = yaml.safe_load(text[text.index("precision:") :])
    assert lines["precision"]["mode"] == "int8"
    assert len(lines["precision"]["keep_float"]) == 1


def test_a_search_in_vain_says_what_stands_in_the_way(tmp_path: Path) -> None:
    line = line_of(write_recipe(tmp_path / "recipe", **floors(199.9)), tmp_path / "build")
    with pytest.raises(GateRefusedError, match=r"No set of float nodes .* 10 % .* All in int8: gate accuracy-int8"):
        search(line, CPU, line.recipe.precision, 10)


def test_a_recipe_without_a_metric_is_told_which_needs_no_labels(tmp_path: Path) -> None:
    line = line_of(write_recipe(tmp_path / "recipe"), tmp_path / "build")
    with pytest.raises(UsageError, match=r"names no `metric`.*`agreement` needs no labels"):
        search(line, CPU, line.recipe.precision, 10)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--advise", "--target-metric-drop", "1"], "give one of them"),
        (["--advise", "--to", "x"], "built from the recipe's lines"),
        (["--target-metric-drop", "1", "--precision", "fp32"], "leaves nothing to choose"),
        (["--target-metric-drop", "-1"], "-1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(tmp_path: Path, args: list[str], words: str) -> None:
    result = invoke("quantize", write_recipe(tmp_path / "recipe"), "-o", tmp_path / "build", *args)
    assert result.exit_code == 2
    assert words in result.stderr
