"""Advice about precision: every one that makes sense is measured, and what cannot be has its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_recipes import Recorder, write_recipe

from enginery.pipeline.choice.advice_text import advice_lines
from enginery.pipeline.choice.advise import Row, advise, choose
from enginery.pipeline.cli.main import cli
from enginery.pipeline.line import Line
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

TOP1 = {"name": "top1", "max_drop": 0.05}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("advise") / "recipe", metric=TOP1)


def test_each_precision_has_its_figures_or_a_reason(recipe: Path, tmp_path: Path) -> None:
    arguments = ["quantize", str(recipe), "-o", str(tmp_path / "build"), "--advise", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["fp32", "int8", "int8-dynamic", "int8-weight", "int4-weight"]
    assert rows["fp32"]["ratio"] == pytest.approx(1.0)
    for row in rows.values():
        assert row["outcome"] == "passed" or row["reason"]
        assert row["size"] > 0
        assert row["ratio"] > 0
        assert -1 <= row["worst"] <= row["cosine"] <= 1.000001
    assert rows["int4-weight"]["cosine"] < rows["int8-weight"]["cosine"]
    assert rows[found["take"]]["outcome"] == "passed"
    assert found["why"]


def test_integers_beside_a_half_precision_are_measured_where_the_target_has_one(recipe: Path, tmp_path: Path) -> None:
    line = Line(load_recipe(str(recipe)), Store.beside(tmp_path / "build"), Recorder())
    rows = {row.name: row for row in advise(line, "openvino-cpu").rows}
    assert list(rows) == ["fp32", "bf16", "int8", "int8 bf16", "int8-dynamic", "int8-weight", "int4-weight"]
    assert rows["int8 bf16"].precision.rest == "bf16"
    assert rows["int8 bf16"].outcome == "passed" or rows["int8 bf16"].reason


def test_without_calibration_data_static_int8_is_a_row_with_the_reason(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", data={"evaluation": {"npz": "evaluation.npz"}})
    line = Line(load_recipe(str(recipe)), Store.beside(tmp_path / "build"), Recorder())
    advice = advise(line, "onnxruntime-cpu")
    static = next(row for row in advice.rows if row.name == "int8")
    assert static.outcome == "failed"
    assert "data.calibration" in static.reason
    text = "\n".join(advice_lines(advice))
    assert f"int8: {static.reason[:60]}" in text
    assert f"Take {advice.take.name}: " in text


FP32 = Row("fp32", Precision(), "passed", ratio=1.0, size=100)
INT8 = Row("int8", Precision(mode=Mode.INT8), "passed", ratio=0.5, size=30)
INT4 = Row("int4-weight", Precision(mode=Mode.INT4_WEIGHT), "passed", ratio=0.8, size=15)


@pytest.mark.parametrize(
    ("rows", "objective", "taken"),
    [
        ([FP32, INT8, INT4], "latency", "int8"),
        ([FP32, INT8, INT4], "size", "int4-weight"),
        ([FP32, replace(INT8, outcome="refused"), INT4], "latency", "int4-weight"),
        ([FP32, INT8, replace(INT4, ratio=0.51)], "latency", "int4-weight"),
        ([FP32, replace(INT8, ratio=1.2), replace(INT4, ratio=1.3)], "latency", "fp32"),
        ([FP32, replace(INT8, outcome="failed", ratio=None)], "latency", "fp32"),
    ],
)
def test_the_fastest_that_passes_is_taken_and_among_equals_the_smallest(
    rows: list[Row], objective: str, taken: str
) -> None:
    assert choose(rows, objective).name == taken
