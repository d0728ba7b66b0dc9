"""Option types: an amount of memory, and a share of the data."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"": 1 << 20, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Size(click.ParamType[int]):
    """Bytes, as `512MiB`, `2G` or `300`, which are MiB where no unit is given; at least 1 MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", str(value).strip().lower())
        size = int(float(match.group(1)) * _UNITS[match.group(2)]) if match else 0
        if size < 1 << 20:
            self.fail(f"{value!r}: expected an amount such as 512MiB or 2GiB, at least 1MiB", param, ctx)
        return size


class Part(click.ParamType[tuple[int, int]]):
    """`K/N`: the Kth of N shares, 1 <= K <= N."""

    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        index, count = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
        if not 1 <= index <= count:
            self.fail(f"{value!r}: expected K/N with 1 <= K <= N, such as 2/4", param, ctx)
        return index, count
