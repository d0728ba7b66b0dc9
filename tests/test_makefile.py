"""The Makefile: help by default, clear words for what is missing, and no target without a line of help."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^\.PHONY: ([a-z-]+)$", TEXT, re.MULTILINE)
EXPECTED = {"setup", "engine", "calibrate", "validate", "test", "test-all", "lint", "types", "bench", "links", "clean"}


def make(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # These tests run under `make test` themselves; what the outer make hands on would change what the inner one prints.
    inherited = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    env = {**inherited, **variables}
    return subprocess.run(["make", *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_help_is_the_default_and_lists_every_target():
    result = make()
    assert result.returncode == 0
    listed = set(re.findall(r"^  ([a-z-]+) ", result.stdout, re.MULTILINE))
    assert set(TARGETS) == listed
    assert listed >= EXPECTED


@pytest.mark.parametrize(("target", "words"), [("engine", "MODEL=minilm"), ("validate", "BUNDLE=")])
def test_what_is_missing_is_named(target, words, tmp_path):
    # A virtual environment that is ready already, so that nothing is installed to find the mistake.
    ready = tmp_path / ".ready"
    ready.touch()
    result = make("-o", str(ready), f"VENV={tmp_path}", target)
    assert result.returncode != 0
    assert words in result.stderr


def test_choices_reach_the_command(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / ".ready").touch()
    fake = tmp_path / "bin" / "enginery"
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    fake.chmod(0o755)
    options = ("MODEL=my models/recipe.yaml", "TARGET=tensorrt-rtx", "PRECISION=int8", "ARGS=--explain -v")
    result = make("-o", str(tmp_path / ".ready"), f"VENV={tmp_path}", "engine", *options)
    expected = "build|my models/recipe.yaml|--target|tensorrt-rtx|--precision|int8|--explain|-v|"
    assert result.stdout == expected, result.stderr


def test_continuous_integration_runs_the_same_targets():
    assert re.search(r"make lint types test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    for name in ("run", "setup"):
        assert os.access(ROOT / ".ci" / name, os.X_OK)


def test_every_pin_is_exact_and_torch_is_among_them():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+-]+", pin) for pin in pins)
    assert sum(pin.startswith("torch==") for pin in pins) == 1
