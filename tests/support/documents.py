"""Reads what the documentation shows: fenced blocks, the files that they stand for, the commands that they give."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# file: (\S+)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `file` is the path that its first line `# file: path` names."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        match = _FILE.match(self.text)
        return match[1] if match else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line of a shell block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(path: Path) -> list[Block]:
    return [Block(language, text) for language, text in _BLOCK.findall(path.read_text(encoding="utf-8"))]


def environment() -> dict[str, str]:
    """The environment under test first on the path, and no make around this one."""
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**{key: value for key, value in os.environ.items() if not key.startswith("MAKE")}, "PATH": path}


def lend_environment(folder: Path) -> None:
    """Let `make` in `folder` find the environment under test set up, instead of installing another."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
    (folder / ".venv" / ".ready").touch()
