from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from enginery.pipeline.cli.options import (
    Folder,
    builder_option,
    bundle_argument,
    complete_recipe,
    echo_json,
    json_option,
    key_option,
    public_key_option,
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
@public_key_option
@key_option(required=False)
@builder_option
@click.option("--drop-signature", is_flag=True, help="Complete a signed bundle and leave it unsigned.")
@trust_option
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    recipe: str | None,
    store: Path | None,
    allow: tuple[str, ...],
    public_key: Path | None,
    key: Path | None,
    builder: str | None,
    drop_signature: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Check a bundle again, on this machine.

    Verifies it, runs its golden inputs and asks the gates that these can answer; needs no torch and no onnx. With
    --recipe every gate is asked again, and a bundle whose engine could not run where it was built is completed: its
    manifest and report then say what was measured here, and --key signs it anew.
    """
    import os

    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.release.provenance import LOCAL_BUILDER
    from enginery.pipeline.release.sign import Signer
    from enginery.pipeline.revalidation import revalidate
    from enginery.pipeline.store import Store

    if recipe is None and ctx.get_parameter_source("key") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--key signs what --recipe completes. To sign a bundle as it is: enginery sign.")
    signer = None
    if key is not None and recipe is not None:
        signer = Signer(key, os.environ.get("ENGINERY_KEY_PASSWORD"), builder or LOCAL_BUILDER)
    with Terminal.from_context() as terminal:
        found = revalidate(
            bundle,
            recipe=None if recipe is None else load_recipe(recipe),
            store=None if store is None else Store(store),
            allow=allow,
            trust=trust,
            public_key=public_key,
            signer=signer,
            drop_signature=drop_signature,
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
        "signed": found.signed,
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
        click.echo(f"completed  {found.bundle}{', and signed anew' if found.signed else ''}")
    elif not Bundle.open(found.bundle).manifest.validated:
        click.echo("Gates are still deferred. Complete them with the recipe: --recipe NAME_OR_FILE.")


def _drift(output: OutputFigures) -> str:
    """How far the engine's answers here are from those that it gave where it was built; no gate judges it."""
    if output.max_abs == 0:
        return "is what the build recorded, bit for bit"
    relative = "" if output.relative is None else f", {output.relative:.2g} of its scale,"
    return f"differs by at most {output.max_abs:.2g}{relative} from what the build recorded"
