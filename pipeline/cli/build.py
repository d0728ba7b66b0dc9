from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginery.errors import GateRefusedError, UsageError
from enginery.pipeline.cli.options import (
    VERBOSITY,
    build_folder_option,
    complete_target,
    echo_json,
    explain_option,
    json_option,
    precision_option,
    recipe_argument,
    statistics_option,
    trust_option,
    verbosity_options,
)
from enginery.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enginery.pipeline.build import BuildResult
    from enginery.pipeline.bundle.manifest import GateVerdict
    from enginery.pipeline.report import Report


@click.command("build")
@recipe_argument
@click.option(
    "--target",
    "-t",
    "chosen",
    multiple=True,
    shell_complete=complete_target,
    help="Build for this target, or `auto`: the best one here; repeat for several (default: the recipe's).",
)
@precision_option
@build_folder_option
@click.option("--allow", multiple=True, metavar="GATE", help="Ship though this gate refuses; recorded in the manifest.")
@click.option(
    "--random-data", is_flag=True, help="Calibrate on random data where the recipe names none; for smoke tests."
)
@click.option(
    "--time-budget", type=click.FloatRange(min=0), metavar="SECONDS", help="Begin no further candidate of `auto` then."
)
@statistics_option
@trust_option
@explain_option
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str,
    chosen: tuple[str, ...],
    precision: str | None,
    output: Path,
    explain: bool,
    as_json: bool,
    random_data: bool,
    time_budget: float | None,
    statistics: Path | None,
    **options: Any,
) -> None:
    """Build a recipe's bundle, or say why not.

    Runs every stage whose inputs changed, asks every gate, and delivers `OUTPUT/<model>/<target>-<precision>/`. A
    refused build exits with 1 and leaves its report there instead. RECIPE is a built-in name or a recipe file.
    """
    from enginery.pipeline.build import build
    from enginery.pipeline.choice.auto import AUTO, build_auto
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.report import read_report

    loaded = load_recipe(recipe)
    mode = precision or loaded.recipe.precision.mode.value
    for target in chosen or loaded.recipe.targets:
        auto = AUTO in (target, mode)
        if auto and statistics is not None:
            raise UsageError("`auto` calibrates by itself; give --statistics with one target and one precision.")
        if auto and random_data:
            raise UsageError("`auto` measures engines that may ship, and none calibrated on random data does.")
        if time_budget is not None and not auto:
            raise UsageError("--time-budget bounds the search of `auto`; a single build has nothing to leave out.")
        only: dict[str, Any] = (
            {"time_budget": time_budget} if auto else {"random_data": random_data, "statistics": statistics}
        )
        try:
            with Terminal.from_context(explain=explain) as terminal:
                run = build_auto if auto else build
                asked = {"target": target, "precision": precision, "output": output, "events": terminal}
                result = run(loaded, **asked, **only, **options)
        except GateRefusedError as error:
            report = read_report(error.report) if error.report is not None else None
            if as_json:
                echo_json(_refusal(target, mode, error.report, report))
            elif report is not None and ctx.meta.get(VERBOSITY, 0) >= 0:
                _show_gates(report.gates)
            raise
        if as_json:
            echo_json(_document(result))
        elif ctx.meta.get(VERBOSITY, 0) < 0:
            click.echo(result.bundle)
        else:
            _show(result, recipe)


def _document(result: BuildResult) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "target": result.target,
        "precision": result.precision,
        "validated": result.validated,
        "reused": result.reused,
        "gates": [gate.model_dump(mode="json") for gate in result.gates],
        **({"candidates": [each.model_dump(mode="json") for each in result.candidates]} if result.candidates else {}),
    }


def _refusal(target: str, precision: str, folder: Path | None, report: Report | None) -> dict[str, Any]:
    """What a machine needs to know of a refused build, out of the report that stands in the bundle's place."""
    return {
        "bundle": None,
        "report": None if folder is None else str(folder),
        "target": target if report is None else report.target,
        "precision": precision if report is None else report.precision,
        "gates": [] if report is None else [gate.model_dump(mode="json") for gate in report.gates],
    }


def _show(result: BuildResult, recipe: str) -> None:
    from enginery.pipeline.choice.auto_text import candidate_lines

    if result.candidates:
        for line in candidate_lines(result.candidates):
            click.echo(line)
        click.echo()
    _show_gates(result.gates)
    unchanged = " (unchanged)" if result.reused else ""
    click.echo(f"  bundle  {result.bundle}{unchanged}")
    click.echo(f"  report  {result.bundle / 'report.md'}")
    if not result.validated:
        there = f"enginery validate {result.bundle} --recipe {recipe}"
        click.echo(f"The engine was not run yet. On a machine that can: {there}")


def _show_gates(gates: Iterable[GateVerdict]) -> None:
    from enginery.pipeline.bundle.manifest import Verdict

    for gate in gates:
        if gate.verdict is not Verdict.SKIPPED:
            click.echo(f"{gate.verdict:>8}  {gate.gate}: {gate.words}")
