"""The documentation tells the truth: links lead somewhere, recipes are valid, and every command in it runs.

A block fenced as `sh` is run. A block whose first line is `# file: path` is a file that the commands of its page use.
The blocks of a page run in order, in an empty folder of their own.
"""

import re
import subprocess

import click
import pytest
import yaml
from documents import ROOT, blocks, environment, lend_environment

from enginery.pipeline.cli.main import cli
from enginery.pipeline.recipe import Recipe

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
WITH_COMMANDS = [page for page in PAGES if any(block.language == "sh" for block in blocks(page))]

BASE = {
    "name": "base",
    "source": {"factory": "model.py:build"},
    "inputs": {"x": {"shape": ["batch", 3]}},
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}},
}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_recipes_and_parts_of_recipes_are_valid(page):
    for block in blocks(page):
        if block.language == "yaml" and (block.file is None or block.file.endswith("recipe.yaml")):
            part = yaml.safe_load(block.text)
            assert isinstance(part, dict), block.text
            if set(part) <= {field.alias or name for name, field in Recipe.model_fields.items()}:
                Recipe.model_validate({**({} if "name" in part else BASE), **part})


def test_every_key_of_a_recipe_is_explained():
    words = set(re.findall(r"\w+", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")))
    schema = Recipe.model_json_schema(by_alias=True)
    parts = [schema, *schema["$defs"].values()]
    keys = {key for part in parts for key in part.get("properties", {})}
    assert len(keys) > 50
    assert sorted(keys - words) == []


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    """Quick, so that a renamed option is noticed before the slow test below runs it."""
    for block in blocks(page):
        for words in block.commands if block.language == "sh" else []:
            if words[0] == "enginery":
                assert_parses(words[1:])


def assert_parses(words: list[str]) -> None:
    context: click.Context = click.Context(cli, info_name="enginery")
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        context, command, words = click.Context(found, info_name=words[0], parent=context), found, words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{context.command_path} has no option {word}"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_every_command_runs(page, tmp_path):
    lend_environment(tmp_path)
    found = blocks(page)
    for block in found:
        if block.file is not None:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    script = "\n".join(block.text for block in found if block.language == "sh" and block.file is None)
    result = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
