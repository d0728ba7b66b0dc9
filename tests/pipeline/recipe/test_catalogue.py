"""`enginery passes`: every pass describes itself, and what is printed is what a recipe may say."""

import json
import re

import pytest
from click.testing import CliRunner

from enginery.engines import targets
from enginery.errors import UsageError
from enginery.passes.graph import graph_passes
from enginery.passes.module import module_passes
from enginery.passes.quantize.remedies import remedies
from enginery.passes.spec import parse_pass
from enginery.pipeline.cli.main import cli
from enginery.pipeline.recipe.catalogue import catalogue, default_specs, find_pass

EVERY = catalogue()
REGISTRIES = {"module": module_passes(), "graph": graph_passes(), "quantize": remedies()}


def test_every_pass_is_listed_once():
    assert len({info.name for info in EVERY}) == len(EVERY)
    assert {info.name for info in EVERY} == {name for registry in REGISTRIES.values() for name in registry}


@pytest.mark.parametrize("info", EVERY, ids=lambda info: info.name)
def test_a_pass_says_what_it_does(info):
    assert info.summary.endswith("."), "the first line of the contract is a sentence"
    assert "\n1. " in info.contract, "the contract is numbered"


@pytest.mark.parametrize("target", targets())
def test_the_defaults_of_a_target_can_be_written_into_a_recipe(target):
    for spec in default_specs(target):
        parse_pass(spec, graph_passes())


def test_an_unknown_pass_or_target():
    with pytest.raises(UsageError, match="no pass 'fuse-everything'"):
        find_pass("fuse-everything")
    assert CliRunner().invoke(cli, ["passes", "--target", "toaster"]).exit_code == 2


def test_the_command_lists_explains_and_speaks_json():
    runner = CliRunner()
    listed = runner.invoke(cli, ["passes"]).stdout
    assert all(f"  {info.name} " in listed for info in EVERY)
    explained = runner.invoke(cli, ["passes", "fold-constants"]).stdout
    assert explained.startswith("fold-constants\n")
    assert "\n  limit=1048576  int\n" in explained
    assert "\n1. " in explained
    found = json.loads(runner.invoke(cli, ["passes", "fold-constants", "--json"]).stdout)
    assert found["options"] == {"limit": "1048576"}
    specs = json.loads(runner.invoke(cli, ["passes", "--target", "onnxruntime-cpu", "--json"]).stdout)
    assert specs == list(default_specs("onnxruntime-cpu"))
    assert {info["name"] for info in json.loads(runner.invoke(cli, ["passes", "--json"]).stdout)} == {
        info.name for info in EVERY
    }


def test_options_that_every_training_has_are_explained_apart():
    explained = CliRunner().invoke(cli, ["passes", "prune-weights"]).stdout
    own, training = explained.split("Training options:")
    assert re.search(r"\n  criterion=l1 +l1\|l2\|lamp\|random\n", own)
    assert "epochs" not in own.partition("Options:")[2]
    assert "schedule=cosine" in training
    assert "`patience` ends the training" in training
