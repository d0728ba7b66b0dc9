from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginery.pipeline.cli.options import (
    VERBOSITY,
    build_folder_option,
    complete_target,
    echo_json,
    explain_option,
    json_option,
    precision_option,
    recipe_argument,
    trust_option,
    verbosity_options,
)
from enginery.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from enginery.pipeline.build import BuildResult


@click.command("build")
@recipe_argument
@click.option(
    "--target", "-t", "chosen", multiple=True, help="Build for this target; repeat for several (default: the recipe's)."
)
@precision_option
@build_folder_option
@click.option("--allow", multiple=True, metavar="GATE", help="Ship though this gate refuses; recorded in the manifest.")
@click.option(
    "--random-data", is_flag=True, help="Calibrate on random data where the recipe names none; for smoke tests."
)
@trust_option
@explain_option
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, recipe: str, chosen: tuple[str, ...], explain: bool, as_json: bool, **options: Any
) -> None:
    """Build a recipe's bundle, or say why not.

    Runs every stage whose inputs changed, asks every gate, and delivers `OUTPUT/<model>/<target>-<precision>/`. A
    refused build exits with 1 and leaves its report there instead. RECIPE is a built-in name or a recipe file.
    """
    from enginery.pipeline.build import build
    from enginery.pipeline.recipe_file import load_recipe

    loaded = load_recipe(recipe)
    for target in chosen or loaded.recipe.targets:
        with Terminal.from_context(explain=explain) as terminal:
            result = build(loaded, target=target, events=terminal, **options)
        if as_json:
            echo_json(_document(result))
        elif ctx.meta.get(VERBOSITY, 0) < 0:
            click.echo(result.bundle)
        else:
            _show(result)


def _document(result: BuildResult) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "target": result.target,
        "precision": result.precision,
        "validated": result.validated,
        "reused": result.reused,
        "gates": [gate.model_dump(mode="json") for gate in result.gates],
    }


def _show(result: BuildResult) -> None:
    from enginery.pipeline.manifest import Verdict

    for gate in result.gates:
        if gate.verdict is not Verdict.SKIPPED:
            click.echo(f"{gate.verdict:>8}  {gate.gate}: {gate.words}")
    unchanged = " (unchanged)" if result.reused else ""
    click.echo(f"  bundle  {result.bundle}{unchanged}")
    click.echo(f"  report  {result.bundle / 'report.md'}")
    if not result.validated:
        click.echo(f"The engine was not run yet. On a machine that can: enginery validate {result.bundle}")
