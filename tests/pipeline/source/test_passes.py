"""Passes of the user's own, by file and class."""

import pytest

from enginery.errors import PassError, UsageError
from enginery.passes.graph import default_passes, graph_passes
from enginery.passes.spec import format_pass
from enginery.pipeline.source.passes import modules_of, pass_code, read_graph_passes, read_pass

OWN = """
from dataclasses import dataclass
from typing import ClassVar

import helper
from enginery.passes.base import PassResult


@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    factor: float = 1.0

    def apply(self, graph):
        return PassResult()


@dataclass(frozen=True)
class Nameless:
    def apply(self, graph):
        return PassResult()


def function():
    return Mine()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0")
    return tmp_path


def test_a_class_in_a_file_with_options(folder):
    found = read_pass("own.py:Mine{factor=2}", graph_passes(), folder)
    assert format_pass(found) == "mine{factor=2.0}"
    assert modules_of([found]) == []


def test_default_stands_for_the_targets_list(folder):
    found = read_graph_passes(["default", "own.py:Mine", "fold-constants{limit=9}"], "onnxruntime-cpu", folder)
    default = default_passes("onnxruntime-cpu")
    assert found[: len(default)] == default
    assert [format_pass(each) for each in found[len(default) :]] == ["mine", "fold-constants{limit=9}"]
    assert modules_of(found[-1:]) == ["enginery.passes.graph.clean.fold_constants"]


def test_what_a_pass_rests_on_is_known_without_its_options(folder):
    before = pass_code(["default", "own.py:Mine{factor=2}", "own.py:Mine"], folder)
    assert list(before) == ["own.py:Mine"]
    assert set(before["own.py:Mine"]["code"]) == {"own.py", "helper.py"}
    (folder / "helper.py").write_text("changed = True")
    assert pass_code(["own.py:Mine"], folder) != before


def test_a_function_as_an_option_is_no_pass_of_ones_own(folder):
    assert pass_code(["distil{student=own.py:function}"], folder) == {}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("own.py:Nameless", UsageError, "is no pass; expected a frozen dataclass with a `name`"),
        ("own.py:function", UsageError, "is no pass"),
        ("own.py:Mine{factr=2}", UsageError, "its options are factor=float"),
        ("absent.py:Mine", UsageError, "there is no file"),
        ("own.py:Absent", PassError, "no callable 'Absent' there"),
        ("broken.py:Mine", PassError, r"importing it raised ZeroDivisionError.*broken\.py, line 1"),
        ("no-such-pass", UsageError, "There is no pass 'no-such-pass'"),
    ],
)
def test_what_is_no_pass(folder, text, error, words):
    with pytest.raises(error, match=words):
        read_pass(text, graph_passes(), folder)
