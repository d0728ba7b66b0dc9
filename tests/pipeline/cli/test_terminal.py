"""What a build shows: on a terminal, in a pipe, with -v and with -q."""

import re

import pytest

from enginery.pipeline.cli.terminal import Terminal
from enginery.pipeline.events import StageName

EXPORT, COMPILE = StageName("export"), StageName("compile", "onnxruntime-cpu int8")


def play(terminal: Terminal) -> None:
    with terminal:
        terminal.reused(EXPORT, "nothing changed")
        terminal.started(COMPILE, "config.opset 20 → 21")
        terminal.progress(COMPILE, 1, 3, "nodes")
        terminal.note("2 nodes stay in float")
        terminal.note("2 nodes stay in float")  # another candidate's
        terminal.finished(COMPILE, 1.5)


@pytest.fixture
def shown(capsys):
    def show(*, interactive: bool, **options) -> str:
        play(Terminal(interactive=interactive, **options))
        captured = capsys.readouterr()
        assert captured.out == "", "standard output is for results"
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", captured.err)

    return show


def test_a_pipe_gets_notes_only(shown):
    assert shown(interactive=False) == "    note  2 nodes stay in float\n"


@pytest.mark.parametrize("options", [{"verbosity": 1}, {"explain": True}])
def test_reasons_are_told_when_asked_for(shown, options):
    text = shown(interactive=False, **options)
    assert "reused  export: nothing changed" in text
    assert "1.5s  compile (onnxruntime-cpu int8): config.opset 20 → 21" in text


def test_a_note_is_told_once(shown):
    assert shown(interactive=True).count("2 nodes stay in float") == 1


def test_quiet_is_silent(shown):
    assert shown(interactive=False, verbosity=-1) == ""
    assert shown(interactive=True, verbosity=-1) == ""


def test_a_terminal_gets_a_line_per_stage_that_ran(shown):
    text = shown(interactive=True)
    assert "1.5s  compile (onnxruntime-cpu int8)\n" in text.replace("\r", "")
    assert "nothing changed" not in text


def test_leaving_ends_the_live_display(capsys):
    terminal = Terminal(interactive=True)
    with terminal:
        terminal.started(EXPORT, "first build")
        assert terminal._progress is not None
    assert terminal._progress is None


@pytest.mark.parametrize(("total", "shown"), [(4, "compile (onnxruntime-cpu int8): batches"), (None, "3 batches")])
def test_progress_with_and_without_a_known_end(total, shown):
    terminal = Terminal(interactive=True)
    with terminal:
        terminal.started(COMPILE, "first build")
        terminal.progress(COMPILE, 3, total, "batches")
        assert terminal._progress is not None
        with terminal._progress.console.capture() as capture:
            terminal._progress.console.print(terminal._progress.get_renderable())
    line = capture.get()
    assert shown in line
    assert ("3/4" in line) == (total is not None)
