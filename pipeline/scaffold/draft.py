"""What a model says about itself, before a recipe is written from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginery.errors import UsageError

_INPUT = re.compile(r"(?P<name>[^:\s]+):(?P<dtype>\w+)\[(?P<shape>[^\]]*)\]")
_DIM = re.compile(r"[1-9]\d*|[A-Za-z_]\w*")


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def parse(cls, text: str) -> Input:
        """Read `name:dtype[dim, dim]`, such as `image:float32[batch,3,224,224]`."""
        match = _INPUT.fullmatch(text.strip())
        dims = [part.strip() for part in match["shape"].split(",") if part.strip()] if match is not None else []
        if match is None or not all(_DIM.fullmatch(dim) for dim in dims):
            raise UsageError(f"--input {text!r}: expected name:dtype[dims], such as 'image:float32[batch,3,224,224]'.")
        shape = tuple(int(dim) if dim.isdigit() else dim for dim in dims)
        return cls(match["name"], match["dtype"], shape)


@dataclass(frozen=True)
class Draft:
    """`source` and `data` are mappings of the recipe's keys; `longest` is the largest size of a dimension, by name."""

    source: Mapping[str, Any]
    inputs: tuple[Input, ...]
    data: Mapping[str, Any] | None = None
    longest: Mapping[str, int] = field(default_factory=dict[str, int])


def relative(path: Path, folder: Path) -> str:
    """The path as a recipe in `folder` writes it."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
