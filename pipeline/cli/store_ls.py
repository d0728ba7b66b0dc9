from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import build_folder_option, echo_json, json_option, verbosity_options


@click.command("ls")
@build_folder_option
@json_option
@verbosity_options
def command(output: Path, as_json: bool) -> None:
    """List the stored results, the oldest first.

    A star marks what the last build of a recipe used; `gc` leaves these alone.
    """
    from enginery.pipeline.store import Store
    from enginery.pipeline.store.upkeep import DAY, entries

    found = entries(Store.beside(output))
    if as_json:
        echo_json([entry.to_json() for entry in found])
        return
    for entry in found:
        mark = "*" if entry.current else " "
        click.echo(
            f"{mark} {entry.key[:12]}  {entry.stage:<12} {entry.bytes / 1e6:10,.2f} MB  {entry.age / DAY:7.1f} days"
        )
    click.echo(f"results: {len(found)}, {sum(entry.bytes for entry in found) / 1e6:,.2f} MB")
