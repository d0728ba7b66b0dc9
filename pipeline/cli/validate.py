from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginery.pipeline.cli.options import (
    Folder,
    bundle_argument,
    complete_recipe,
    echo_json,
    json_option,
    trust_option,
    verbosity_options,
)
from enginery.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from enginery.pipeline.comparison import OutputFigures
    from enginery.pipeline.revalidation import Revalidation


@click.command("validate")
@bundle_argument
@click.option("--recipe", shell_complete=complete_recipe, help="Make the full comparison with this recipe's original.")
@click.option("--store", type=Folder(), help="Folder of stage results for --recipe (default: beside the bundle).")
@click.option("--allow", multiple=True, metavar="GATE", help="Go on though this gate refuses.")
@trust_option
@json_option
@verbosity_options
def command(
    bundle: Path, recipe: str | None, store: Path | None, allow: tuple[str, ...], trust: bool, as_json: bool
) -> None:
    """Check a bundle again, on this machine.

    Verifies it, runs its golden inputs and asks the gates that these can answer; needs no torch and no onnx. With
    --recipe every gate is asked again, and a bundle whose engine could not run where it was built is completed.
    """
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.revalidation import revalidate
    from enginery.pipeline.store import Store

    with Terminal.from_context() as terminal:
        found = revalidate(
            bundle,
            recipe=None if recipe is None else load_recipe(recipe),
            store=None if store is None else Store(store),
            allow=allow,
            trust=trust,
            events=terminal,
        )
    if as_json:
        echo_json(_document(found))
    else:
        _show(found)


def _document(found: Revalidation) -> dict[str, object]:
    return {
        "bundle": str(found.bundle),
        "gates": [gate.model_dump(mode="json") for gate in found.gates],
        "against_build": {case.case: [output.to_json() for output in case.outputs] for case in found.against_build},
        "session": dict(found.measured.session),
        "full": found.full,
        "completed": found.completed,
    }


def _show(found: Revalidation) -> None:
    from enginery.pipeline.bundle import Bundle

    for gate in found.gates:
        if gate.verdict != "skipped":
            click.echo(f"{gate.verdict:>9}  {gate.gate}: {gate.words}")
    for case in found.against_build:
        for output in case.outputs:
            click.echo(f"   golden  {case.case}: {output.name} {_drift(output)}")
    if found.completed:
        click.echo(f"completed  {found.bundle}")
    elif not Bundle.open(found.bundle).manifest.validated:
        click.echo("Gates are still deferred. Complete them with the recipe: --recipe NAME_OR_FILE.")


def _drift(output: OutputFigures) -> str:
    """How far the engine's answers here are from those that it gave where it was built; no gate judges it."""
    if output.max_abs == 0:
        return "is what the build recorded, bit for bit"
    relative = "" if output.relative is None else f", {output.relative:.2g} of its scale,"
    return f"differs by at most {output.max_abs:.2g}{relative} from what the build recorded"
