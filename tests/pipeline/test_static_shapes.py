"""Engines that are compiled for single shapes, too: what the recipe lists is compared there and shipped so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipes import write_recipe

from enginery import load
from enginery.errors import UsageError
from enginery.pipeline.build import build
from enginery.pipeline.choice.contest import Contest, Trial, judged, rank, tune
from enginery.pipeline.events import Events
from enginery.pipeline.recipe import Mode
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

ENGINE = {"openvino-cpu": {"static_shapes": True}}


def test_the_recipes_shapes_are_compared_and_shipped(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r", shapes=[{"batch": 5}, {}], engine=ENGINE, targets=["openvino-cpu"])
    bundle = build(load_recipe(str(recipe)), output=tmp_path / "b", precision="fp32").bundle
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["engine"]["options"]["static_shapes"] == [{"batch": 8}, {"batch": 5}]
    report = json.loads((bundle / "report.json").read_text())
    assert "shape-1 (batch=5)" in [case["case"] for case in report["cases"]]
    assert (bundle / "golden" / "shape-1.inputs.npz").is_file()
    with load(bundle) as session:
        assert session.describe()["static_shapes"] == ["batch=8", "batch=5"]


def test_a_shape_that_nothing_compares_is_refused_before_anything_runs(tmp_path: Path) -> None:
    engine = {"openvino-cpu": {"static_shapes": [{"batch": 6}]}}
    recipe = write_recipe(tmp_path / "r", engine=engine, targets=["openvino-cpu"])
    with pytest.raises(UsageError, match=r"batch 6, where the gates run nothing"):
        build(load_recipe(str(recipe)), output=tmp_path / "b", precision="fp32")
    assert not (tmp_path / "b" / ".store" / "results").exists()


@pytest.mark.parametrize("dynamic", [True, False])
def test_auto_tries_fixed_shapes_where_there_are_others(tmp_path: Path, dynamic: bool) -> None:
    fixed = {"inputs": {"x": {"dtype": "float32", "shape": [8, 32]}}, "dims": None}
    recipe = write_recipe(tmp_path / "r", targets=["openvino-cpu"], **({} if dynamic else fixed))
    contest = Contest(load_recipe(str(recipe)), Store.beside(tmp_path / "b"), Events(), (), False, 0.0)
    trial = judged(contest, Trial("openvino-cpu", Mode.FP32))
    tried = [item.options for item in tune(contest, rank(contest, [trial])[0])]
    assert ({"static_shapes": True} in tried) == dynamic
