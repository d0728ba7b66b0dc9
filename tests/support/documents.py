"""Reads what the documentation shows: fenced blocks, the files that they stand for, the commands that they give."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

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
