"""Calibration runs once, whatever the number of targets; statistics can be shared out, merged and brought along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from quantizable import attention_block
from tiny_recipes import Recorder, write_recipe

from enginery.errors import StatisticsError
from enginery.passes.calibration import Statistics
from enginery.pipeline.cli.main import cli
from enginery.pipeline.line import Line
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

INT8 = Precision(mode=Mode.INT8, passes=())
DATA = """
import numpy as np

def batches():
    with open({log!r}, "a") as log:
        log.write("opened\\n")
    rng = np.random.default_rng(0)
    for _ in range(4):
        yield {{"x": rng.standard_normal((2, 6, 32)).astype("float32")}}
"""


@pytest.fixture
def attention(tmp_path: Path) -> Path:
    """The recipe of a model whose attention each target lowers in its own way; its data says how often it is read."""
    folder = tmp_path / "attention"
    folder.mkdir()
    attention_block(folder / "model.onnx")
    (folder / "data.py").write_text(DATA.format(log=str(tmp_path / "opened")))
    recipe = {
        "name": "attention",
        "source": {"onnx": "model.onnx"},
        "inputs": {"x": {"dtype": "float32", "shape": ["batch", "seq", 32]}},
        "dims": {"batch": {"min": 1, "opt": 2, "max": 4}, "seq": {"min": 1, "opt": 6, "max": 8}},
        "data": {"calibration": {"python": "data.py:batches"}},
        "speed": {"required": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_two_targets_that_lower_attention_differently_calibrate_once(attention: Path, tmp_path: Path) -> None:
    events = Recorder()
    line = Line(load_recipe(str(attention)), Store.beside(tmp_path / "build"), events)
    for target in ("onnxruntime-cpu", "tensorrt-rtx"):
        assert Statistics.load(line.statistics(target, INT8).path("statistics")).tensors
    assert line.optimize("onnxruntime-cpu").digest_of("model") != line.optimize("tensorrt-rtx").digest_of("model")
    assert [stage for stage in events.ran if stage.startswith("calibrate")] == ["calibrate"]
    assert {"bind (onnxruntime-cpu)", "bind (tensorrt-rtx)"} <= set(events.ran)
    assert (tmp_path / "opened").read_text().count("opened") == 1, "the data is read once for both targets"
    assert events.notes == []
    one, other = line.quantize("onnxruntime-cpu", INT8), line.quantize("tensorrt-rtx", INT8)
    integer = [set(result.json("quantize.json")["details"]["integer"]) for result in (one, other)]
    assert integer[0] == integer[1]
    assert len(integer[0]) == 4


def test_workers_share_the_data_and_their_statistics_merge_in_any_order(attention: Path, tmp_path: Path) -> None:
    for part in ("1", "2"):
        result = invoke(
            "calibrate", attention, "-o", tmp_path / "build", "--part", f"{part}/2", "--to", tmp_path / part
        )
        assert result.exit_code == 0, result.output
    parts = [tmp_path / part / "statistics" for part in ("1", "2")]
    assert invoke("calibrate", "--merge", *parts, "--to", tmp_path / "merged").exit_code == 0
    assert invoke("calibrate", "--merge", *reversed(parts), "--to", tmp_path / "other").exit_code == 0
    invoke("calibrate", attention, "-o", tmp_path / "build", "--to", tmp_path / "whole")
    merged = (tmp_path / "merged" / "statistics.json").read_bytes()
    assert merged == (tmp_path / "other" / "statistics.json").read_bytes()
    whole = Statistics.load(tmp_path / "whole" / "statistics")
    assert whole.data_digest == Statistics.load(tmp_path / "merged").data_digest
    assert not whole.diff(Statistics.load(tmp_path / "merged"), tolerance=1e-9)
    again = invoke("calibrate", "--merge", parts[0], parts[0], "--to", tmp_path / "twice")
    assert again.exit_code == 1
    assert "in more than one" in again.stderr
    assert not (tmp_path / "twice").exists()


def test_given_statistics_take_the_place_of_calibration(attention: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    invoke("calibrate", attention, "-o", build, "--to", tmp_path / "own")
    given = tmp_path / "own" / "statistics"
    recipe = yaml.safe_load(attention.read_text())
    del recipe["data"]
    bare = attention.with_name("bare.yaml")
    bare.write_text(yaml.safe_dump(recipe))
    refused = invoke("quantize", bare, "-o", tmp_path / "new", "--precision", "int8")
    assert "names none" in refused.stderr
    result = invoke("quantize", bare, "-o", tmp_path / "new", "--precision", "int8", "--statistics", given)
    assert result.exit_code == 0, result.output
    foreign = write_recipe(tmp_path / "tiny")
    refused = invoke("quantize", foreign, "-o", tmp_path / "new", "--precision", "int8", "--statistics", given)
    assert refused.exit_code == 1
    assert "belong to graph" in refused.stderr


def test_random_statistics_stay_marked_when_they_are_given(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "bare", data={"evaluation": {"npz": "evaluation.npz"}})
    made = invoke("calibrate", recipe, "-o", tmp_path / "build", "--random-data", "--to", tmp_path / "noise")
    assert made.exit_code == 0, made.output
    given = tmp_path / "noise" / "statistics"
    built = invoke("build", recipe, "-o", tmp_path / "build", "--precision", "int8", "--statistics", given)
    assert built.exit_code == 1
    assert "calibrated on random data" in built.stderr


def test_a_tensorrt_cache_goes_out_and_comes_back(tmp_path: Path) -> None:
    recipe, cache = write_recipe(tmp_path / "recipe"), tmp_path / "calibration.cache"
    made = invoke("calibrate", recipe, "-o", tmp_path / "build", "--export-cache", cache)
    assert made.exit_code == 0, made.output
    assert cache.read_text().startswith("TRT-")
    taken = invoke("calibrate", recipe, "-o", tmp_path / "build", "--import-cache", cache, "--to", tmp_path / "taken")
    assert taken.exit_code == 0, taken.output
    own = Statistics.load(Path(made.stdout.strip()) / "statistics").tensors["x"]
    found = Statistics.load(tmp_path / "taken").tensors["x"]
    assert found.high == pytest.approx(max(-own.low, own.high), rel=1e-6)
    built = invoke("quantize", recipe, "-o", tmp_path / "build", "-p", "int8", "--statistics", tmp_path / "taken")
    assert built.exit_code == 0, built.output
    assert json.loads((Path(built.stdout.strip()) / "quantize.json").read_text())["changed"] == 2
    foreign = tmp_path / "foreign.cache"
    foreign.write_text("TRT-8601-EntropyCalibration2\nother: 3f800000\n")
    refused = invoke(
        "calibrate", recipe, "-o", tmp_path / "build", "--import-cache", foreign, "--to", tmp_path / "nothing"
    )
    assert refused.exit_code == 1
    assert "No tensor of model.onnx" in refused.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--merge", "a"], "Say with --to"),
        (["--merge", "a", "--to", "c"], "at least two folders"),
        (["a", "b"], "Give one recipe; given: 2"),
        (["a", "--part", "3/2"], "expected K/N"),
        (["a", "--memory-budget", "lots"], "expected an amount such as 512MiB"),
        (["a", "--import-cache", "cache"], "Say with --to"),
    ],
    ids=" ".join,
)
def test_wrong_usage(args: list[str], words: str) -> None:
    result = invoke("calibrate", *args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_statistics_of_nowhere_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe")))
    line = Line(recipe, Store.beside(tmp_path / "build"), Recorder(), statistics=tmp_path / "none")
    with pytest.raises(StatisticsError, match="holds no readable statistics"):
        line.calibrate()
