from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import build_folder_option, echo_json, json_option, verbosity_options


@click.command("gc")
@build_folder_option
@click.option(
    "--keep", type=click.FloatRange(min=0), default=14, show_default=True, help="Keep what is younger, in days."
)
@json_option
@verbosity_options
def command(output: Path, keep: float, as_json: bool) -> None:
    """Remove stored results that no recipe's last build used.

    Only those older than --keep days, and whatever a killed build left unfinished. Nothing that is removed is lost: the
    next build that needs it makes it again.
    """
    from enginery.pipeline.store import Store
    from enginery.pipeline.store.upkeep import collect

    removed = collect(Store.beside(output), keep)
    if as_json:
        echo_json([entry.to_json() for entry in removed])
        return
    click.echo(f"results removed: {len(removed)}, {sum(entry.bytes for entry in removed) / 1e6:,.2f} MB")
