"""What holds for every command: help, documentation, and a start that loads nothing heavy."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from enginery.pipeline.cli.main import COMMANDS, cli
from enginery.pipeline.cli.options import MODES
from enginery.pipeline.recipe import Mode

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "transformers",
    "scipy",
    "sklearn",
    "numpy",
    "rich",
)


def all_commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += all_commands(command, (*path, name))
    return found


EVERY = all_commands()
IDS = [" ".join(path) for path, _ in EVERY]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_every_command_and_option_has_help(path, command):
    assert command.help, f"enginery {' '.join(path)} has no help"
    assert command.get_short_help_str(limit=200).endswith("."), "the first line of a help is a sentence"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"enginery {' '.join(path)} {parameter.opts[0]} has no help"


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_every_command_and_option_is_documented(path, command, repository):
    documented = (repository / "docs" / "cli.md").read_text()
    _, found, section = documented.partition(f"\n## enginery {' '.join(path)}\n")
    assert found, f"docs/cli.md has no section for enginery {' '.join(path)}"
    section = section.partition("\n## ")[0]
    shared = documented.partition("\n## Every command\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            name = max(parameter.opts, key=len)
            assert f"`{name}" in section or f"`{name}" in shared, f"{' '.join(path)} {name} is not documented"


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from enginery.pipeline.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print(sorted({{m.partition('.')[0] for m in sys.modules}} & set({HEAVY!r})))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


def test_a_mistyped_command_names_the_right_one():
    result = CliRunner().invoke(cli, ["inspekt"])
    assert result.exit_code == 2
    assert "inspect" in result.stderr


def test_the_precisions_are_those_of_the_recipe():
    assert list(MODES) == [mode.value for mode in Mode]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_ENGINERY_COMPLETE" in result.output


def test_completion_offers_recipes_and_targets():
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "enginery", "_ENGINERY_COMPLETE")
    assert "minilm" in [item.value for item in complete.get_completions(["build"], "mini")]
    assert "onnxruntime-cpu" in [item.value for item in complete.get_completions(["build", "--target"], "onnx")]
