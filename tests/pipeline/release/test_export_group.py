"""`enginery export`: the first word is a format, or else a recipe to export as ONNX."""

import pytest
from click.testing import CliRunner
from tiny_recipes import write_recipe

from enginery.pipeline.cli.export import FORMATS
from enginery.pipeline.cli.main import cli


@pytest.mark.parametrize("words", [[], ["onnx"]], ids=["default", "named"])
def test_a_recipe_is_exported_as_onnx(tmp_path, words):
    recipe = write_recipe(tmp_path)
    arguments = ["export", *words, str(recipe), "--output", str(tmp_path / "build"), "--to", str(tmp_path / "onnx")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "onnx").rglob("model.onnx"))


def test_options_may_come_before_the_recipe(tmp_path):
    recipe = write_recipe(tmp_path)
    result = CliRunner().invoke(cli, ["export", "--output", str(tmp_path / "build"), str(recipe)])
    assert result.exit_code == 0, result.output


def test_help_lists_the_formats():
    text = CliRunner().invoke(cli, ["export", "--help"]).stdout
    assert all(f"\n  {name} " in text for name in FORMATS)


def test_a_recipe_that_is_not_there_is_wrong_usage():
    result = CliRunner().invoke(cli, ["export", "no-such-recipe"])
    assert result.exit_code == 2
    assert "no-such-recipe" in result.stderr
