from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import build_folder_option, echo_json, json_option, verbosity_options


@click.command("verify")
@build_folder_option
@json_option
@verbosity_options
def command(output: Path, as_json: bool) -> None:
    """Read every file of every stored result and compare its digest.

    Exits with 1 where one is damaged. A build notices by itself, and makes the result again.
    """
    from enginery.pipeline.store import Store
    from enginery.pipeline.store.upkeep import verify

    found = dict(verify(Store.beside(output)))
    damaged = {key: fault for key, fault in found.items() if fault is not None}
    if as_json:
        echo_json({"results": len(found), "damaged": damaged})
    else:
        for key, fault in damaged.items():
            click.echo(f"{key}: {fault}")
        click.echo(f"results: {len(found)}, damaged: {len(damaged)}")
    if damaged:
        click.get_current_context().exit(1)
