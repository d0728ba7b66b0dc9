"""The choice by measurement, on a recipe that builds in a second. Which engine is faster is left to the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recipes import Recorder, write_recipe

from enginery.engines import targets
from enginery.errors import GateRefusedError, RecipeError, UsageError
from enginery.pipeline.build import BuildResult
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.choice.auto import build_auto
from enginery.pipeline.choice.auto_text import candidate_lines
from enginery.pipeline.choice.contest import Contest, Trial, judged, rank, tune
from enginery.pipeline.choice.race import shapes_to_race
from enginery.pipeline.cli.main import cli
from enginery.pipeline.events import Events
from enginery.pipeline.recipe import Mode
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.report import Candidate, read_report
from enginery.pipeline.store import Store

WRONG = {"name": "top1", "max_drop": 1.0, "expected": 0.5}
"""The model answers its own labels, so its accuracy is 1."""


def choose(recipe: Path, output: Path, **options: Any) -> BuildResult:
    return build_auto(load_recipe(str(recipe)), output=output, **{"benchmark_seconds": 0.0, **options})


def table(result: BuildResult) -> tuple[Candidate, ...]:
    return read_report(result.bundle).candidates


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    folder = tmp_path_factory.mktemp("auto")
    return choose(write_recipe(folder / "recipe"), folder / "build", precision="auto")


def test_the_bundle_is_an_ordinary_one_in_the_folder_that_was_asked_for(chosen: BuildResult) -> None:
    assert chosen.bundle.name == "auto-auto"
    manifest = verify_bundle(chosen.bundle).manifest
    assert (manifest.target, manifest.precision) == (chosen.target, chosen.precision)
    assert chosen.target in targets()
    assert chosen.precision != "auto"


def test_the_report_lists_every_target_winner_first_losers_with_reasons(chosen: BuildResult) -> None:
    candidates = table(chosen)
    assert candidates[0].outcome == "chosen"
    assert (candidates[0].target, candidates[0].precision) == (chosen.target, chosen.precision)
    assert {item.target for item in candidates} == set(targets())
    for item in candidates:
        measured = item.outcome in ("chosen", "slower")
        assert (item.median_ms is not None and item.bytes is not None) if measured else item.reason
        assert item.reason or item.outcome == "chosen"
    assert "## Chosen from" in (chosen.bundle / "report.md").read_text()
    assert "Chosen from" in (chosen.bundle / "report.html").read_text()


def test_the_command_tells_every_candidate(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r")
    command = ["build", str(recipe), "--target", "onnxruntime-cpu", "--precision", "auto", "--time-budget", "0"]
    result = CliRunner().invoke(cli, [*command, "--output", str(tmp_path / "b")])
    assert result.exit_code == 0, result.output
    heads = r"^outcome +engine +size +opt \(batch=8\) +min \(batch=1\) +max \(batch=16\) +reason\n"
    assert re.search(heads, result.stdout)
    assert re.search(r"\nchosen +onnxruntime-cpu int8 +[\d.]+ MB( +[\d.]+ ms){3}\n", result.stdout)
    assert re.search(r"not tried +onnxruntime-cpu fp32 +the time budget of 0 s was spent", result.stdout)
    told = CliRunner().invoke(cli, [*command, "--output", str(tmp_path / "b"), "--json"])
    assert [each["outcome"] for each in json.loads(told.stdout)["candidates"]][:2] == ["chosen", "not tried"]


def test_every_shape_stands_in_the_table_and_in_the_report(chosen: BuildResult) -> None:
    timed = [item for item in table(chosen) if item.shapes]
    assert {tuple(each.shape.split()[0] for each in item.shapes) for item in timed} == {("opt", "min", "max")}
    for item in timed:
        mean = np.exp(np.average([np.log(each.ratio) for each in item.shapes], weights=[2, 1, 1]))
        assert item.ratio == pytest.approx(mean)
        assert item.median_ms == item.shapes[0].median_ms
    assert list(candidate_lines(table(chosen)))[-1].endswith("opt (batch=8) counts 2 times.")
    assert "in which opt (batch=8) counts 2 times" in (chosen.bundle / "report.md").read_text()
    assert "in which opt (batch=8) counts 2 times" in (chosen.bundle / "report.html").read_text()


def test_the_recipe_may_list_the_shapes(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r", shapes=[{"batch": 3}, {}, {"batch": 3}])
    raced = [(str(case), weight) for case, weight in shapes_to_race(load_recipe(str(path)).recipe)]
    assert raced == [("shape (batch=3)", 2), ("opt (batch=8)", 1)]
    result = choose(path, tmp_path / "b", target="onnxruntime-cpu", precision="auto")
    assert [each.shape for each in table(result)[0].shapes] == ["shape (batch=3)", "opt (batch=8)"]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [([{"seq": 4}], "`shapes` names 'seq'; dimensions: batch"), ([{"batch": 999}], "`shapes` has batch 999")],
)
def test_a_shape_outside_of_the_dimensions_is_refused(tmp_path: Path, shapes: list[dict[str, int]], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        load_recipe(str(write_recipe(tmp_path / "r", shapes=shapes)))


def test_the_fastest_is_chosen(chosen: BuildResult) -> None:
    slower = [item for item in table(chosen) if item.outcome == "slower" and not item.options]
    ranked = [item.ratio for item in slower if item.ratio is not None]
    assert ranked == sorted(ranked)


def test_one_target_in_the_best_precision(tmp_path: Path) -> None:
    result = choose(write_recipe(tmp_path / "r"), tmp_path / "b", target="onnxruntime-cpu", precision="auto")
    assert result.bundle.name == "onnxruntime-cpu-auto"
    assert result.target == "onnxruntime-cpu"


@pytest.mark.parametrize(("precision", "expected"), [("int8", True), ("fp32", False)])
def test_bfloat16_for_the_float_rest_is_tried_with_an_int8_engine_only(
    tmp_path: Path, precision: str, expected: bool
) -> None:
    recipe = write_recipe(tmp_path / "r", targets=["openvino-cpu"])
    loaded = load_recipe(str(recipe))
    contest = Contest(loaded, Store.beside(tmp_path / "b"), Events(), (), False, 0.0)
    trial = judged(contest, Trial("openvino-cpu", Mode(precision)))
    tried = [item.options for item in tune(contest, rank(contest, [trial])[0])]
    assert ({"inference_precision": "bf16"} in tried) == expected
    assert {"threads": 1} in tried


def test_the_session_options_that_were_tried_stand_in_the_table(chosen: BuildResult) -> None:
    tuned = [item for item in table(chosen) if (item.target, item.precision) == (chosen.target, chosen.precision)]
    assert {"threads": 1} in [item.options for item in tuned]
    assert all(item.reason or item.ratio is not None for item in tuned)


def test_by_size_the_smallest_is_chosen(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r", objective="size", precision="auto")
    candidates = table(choose(recipe, tmp_path / "b", target="onnxruntime-cpu"))
    sizes = {item.outcome: item.bytes for item in candidates if item.bytes is not None}
    assert {"chosen", "larger"} <= set(sizes)
    assert sizes["chosen"] == min(sizes.values())


def test_nothing_passes_and_every_reason_is_told(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r", metric=WRONG)
    with pytest.raises(GateRefusedError, match=r"No candidate for tiny passed") as caught:
        choose(recipe, tmp_path / "b", target="onnxruntime-cpu", precision="auto")
    assert "onnxruntime-cpu fp32: gate expected-metric" in str(caught.value)
    assert "onnxruntime-cpu int8: gate expected-metric" in str(caught.value)
    assert not list((tmp_path / "b").glob("tiny/*/manifest.json"))


def test_a_spent_time_budget_leaves_the_rest_untried(tmp_path: Path) -> None:
    result = choose(
        write_recipe(tmp_path / "r"), tmp_path / "b", target="onnxruntime-cpu", precision="auto", time_budget=0.0
    )
    late = [item for item in table(result) if "time budget" in item.reason]
    assert {item.outcome for item in late} == {"not tried"}
    # One other precision, and the winner's session options.
    assert [item.precision for item in late if not item.options] == ["fp32"]
    assert {"threads": 1} in [item.options for item in late]
    assert result.validated


def test_a_second_run_repeats_no_build(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r")
    options = {"target": "onnxruntime-cpu", "precision": "auto"}
    choose(recipe, tmp_path / "b", **options)
    events = Recorder()
    choose(recipe, tmp_path / "b", events=events, **options)
    assert not events.ran


def test_on_a_busy_machine_the_number_of_threads_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginery.pipeline.choice.race.cores_taken", lambda: 1.4)
    result = choose(write_recipe(tmp_path / "r"), tmp_path / "b", target="onnxruntime-cpu", precision="auto")
    (one,) = [item for item in table(result) if item.options == {"threads": 1}]
    assert (one.outcome, one.reason.split(",")[0]) == ("refused", "other work kept 1.4 cores busy")
    assert Bundle.open(result.bundle).manifest.engine.options["threads"] == 0


def test_options_of_the_recipe_are_not_searched(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r", engine={"onnxruntime-cpu": {"threads": 1, "spinning": False}})
    result = choose(recipe, tmp_path / "b", target="onnxruntime-cpu", precision="auto")
    options = Bundle.open(result.bundle).manifest.engine.options
    assert (options["threads"], options["spinning"]) == (1, False)


def test_a_target_that_cannot_run_here_is_no_choice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime-cuda runs on this machine"):
        choose(write_recipe(tmp_path / "r"), tmp_path / "b", target="onnxruntime-cuda", precision="auto")
