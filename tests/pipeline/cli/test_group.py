"""The boundary where errors become messages and exit codes."""

import errno

import click
import pytest
from click.testing import CliRunner

from enginery.errors import GateRefusedError, RecipeError, StageError
from enginery.pipeline.cli.group import BoundaryGroup
from enginery.pipeline.cli.options import verbosity_options


def run(error: BaseException, *args: str):
    group = BoundaryGroup("enginery", modules={})

    @click.command("fail")
    @verbosity_options
    def fail():
        raise error

    group.get_command = lambda ctx, cmd_name: fail
    return CliRunner().invoke(group, ["fail", *args], standalone_mode=True)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GateRefusedError("accuracy: 3 > 2"), 1, "Error: accuracy: 3 > 2"),
        (RecipeError("line 3: unknown key"), 2, "Error: line 3: unknown key"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/disk"), 1, "No space left on device: /full/disk"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (MemoryError(), 1, "memory of this machine does not suffice"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'enginery[cpu]'"),
        (ModuleNotFoundError("No module named 'timm.x'", name="timm.models"), 2, "pip install 'enginery[hf]'"),
    ],
)
def test_one_message_and_an_exit_code(error, code, words):
    result = run(error)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_what_a_library_made_of_ctrl_c_is_an_interruption():
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("a handler that failed")
    except AttributeError as first:
        error = StageError("export: cannot")
        error.__cause__ = first
    result = run(error)
    assert result.exit_code == 130
    assert result.stderr == "Error: Interrupted. Finished stages are kept; the same command resumes.\n"


def test_debug_shows_the_traceback_too():
    result = run(GateRefusedError("accuracy: 3 > 2"), "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "Error: accuracy: 3 > 2" in result.stderr


@pytest.mark.parametrize(
    "error", [ValueError("all wrong"), OSError("all wrong"), ModuleNotFoundError("all wrong", name="enginery.absent")]
)
def test_a_fault_of_ours_is_called_one(error):
    result = run(error)
    assert result.exit_code == 1
    assert f"Error: A fault of Enginery: {type(error).__name__}: all wrong (pipeline/cli/test_group.py" in result.stderr
    assert "--debug prints the traceback" in result.stderr
    assert "Traceback" not in result.stderr
    shown = run(error, "--debug")
    assert "Traceback" in shown.stderr
    assert "in fail" in shown.stderr


def test_what_click_knows_stays_clicks():
    result = run(click.UsageError("no such thing"))
    assert result.exit_code == 2
    assert "fault" not in result.stderr
