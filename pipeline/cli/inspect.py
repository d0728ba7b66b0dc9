from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from enginery.pipeline.cli.options import echo_json, json_option, verbosity_options

MOST_ROWS = 30


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@json_option
@verbosity_options
def command(path: Path, as_json: bool) -> None:
    """Describe an ONNX model, a folder of statistics, or a bundle.

    Of statistics it draws how each tensor's values are spread, those first whose outliers reach farthest.
    """
    from enginery.pipeline.inspection import inspect

    description = inspect(path)
    if as_json:
        echo_json(description)
        return
    if description["kind"] == "statistics":
        description["tensors"] = len(description["tensors"])
    for line in _lines(description):
        click.echo(line)
    if description["kind"] == "statistics":
        _draw(path)


def _draw(path: Path) -> None:
    from enginery.passes.calibration import Statistics
    from enginery.pipeline.report.ranges import range_lines

    click.echo()
    for line in range_lines(Statistics.load(path), MOST_ROWS):
        click.echo(line)


def _lines(description: dict[str, Any]) -> Iterator[str]:
    for key, value in description.items():
        title = key.replace("_", " ")
        if isinstance(value, (dict, list)) and value:
            rows = [f"{name}: {_text(each)}" for name, each in value.items()] if isinstance(value, dict) else value
            yield f"{title}:"
            yield from (f"  {row}" for row in rows[:MOST_ROWS])
            if len(rows) > MOST_ROWS:
                yield f"  and {len(rows) - MOST_ROWS} more; --json lists them"
        else:
            yield f"{title}: {_text(value) if value not in ([], {}) else 'none'}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " to ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
