from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginery.pipeline.cli.options import File, echo_json, json_option, verbosity_options

if TYPE_CHECKING:
    from enginery.pipeline.conformance import LintReport


@click.command("lint")
@click.argument("model", type=File())
@click.option("--target", "-t", default="tensorrt", show_default=True, help="Lint for this target.")
@click.option("--fix", type=File(), help="Write a copy that the target takes as it is meant to this file.")
@json_option
@verbosity_options
def command(model: Path, target: str, fix: Path | None, as_json: bool) -> None:
    """Say what of an ONNX file a target refuses, or takes for something else.

    Exits with 1 where an error is left.
    """
    from enginery.pipeline.conformance import lint_file

    report = lint_file(model, target, fix)
    if as_json:
        echo_json(report.to_json())
    else:
        for line in _lines(report, fix):
            click.echo(line)
    if not report.passes:
        click.get_current_context().exit(1)


def _lines(report: LintReport, fix: Path | None) -> Iterator[str]:
    if report.fixed is None:
        yield from map(str, report.findings)
        yield _count(len(report.findings))
        return
    yield from map(str, report.fixed.after)
    yield f"{fix}: {len(report.findings)} findings, {len(report.fixed.after)} left after {report.fixed.changed} edits."
    for difference in report.fixed.differences:
        yield (
            f"output {difference.output!r}: largest error {difference.absolute:.3g}, "
            f"{difference.relative:.3g} of its scale, against the given model on random inputs"
        )
    if report.note:
        yield report.note


def _count(findings: int) -> str:
    return "No findings." if not findings else f"{findings} finding{'s' if findings > 1 else ''}."
