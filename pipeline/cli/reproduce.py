from __future__ import annotations

import tempfile
from pathlib import Path

import click

from enginery.pipeline.cli.options import (
    Folder,
    echo_json,
    json_option,
    precision_option,
    recipe_argument,
    target_option,
    trust_option,
    verbosity_options,
)


@click.command("reproduce")
@recipe_argument
@target_option
@precision_option
@click.option("--allow", multiple=True, metavar="GATE", help="Passed on to the builds, such as `speed`.")
@trust_option
@click.option("--keep", type=Folder(), help="Build in this empty folder and keep it (default: a temporary one).")
@json_option
@verbosity_options
def command(
    recipe: str, target: str | None, precision: str | None, allow: tuple[str, ...], keep: Path | None, **flags: bool
) -> None:
    """Build a recipe three times and compare the bundles.

    Twice with nothing cached, in different folders, and once more from the store. Exits with 1 where anything but a
    measurement differs, and names the first file and field.
    """
    from enginery.errors import UsageError
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.release.reproduce import reproduce

    load_recipe(recipe)
    options = [*(["--target", target] if target else []), *(["--precision", precision] if precision else [])]
    options += [word for gate in allow for word in ("--allow", gate)] + (["--trust"] if flags["trust"] else [])
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise UsageError(f"{keep} is not empty: a build there would not start from nothing. Name another folder.")
    with tempfile.TemporaryDirectory(prefix="enginery-reproduce-") as folder:
        found = reproduce(recipe, options, keep or Path(folder), lambda what: click.echo(what, err=True))
    if flags["as_json"]:
        differences = {name: [vars(item) for item in items] for name, items in found.differences.items()}
        echo_json({"reproducible": bool(found), "manifests": dict(found.digests), "differences": differences})
    else:
        for name, digest in found.digests.items():
            for difference in found.differences[name]:
                click.echo(f"{name}: {difference}")
            if not found.differences[name]:
                click.echo(f"{name}: every build gives manifest sha256:{digest}")
    if not found:
        click.get_current_context().exit(1)
