from __future__ import annotations

import click

from enginery.pipeline.cli.group import LazyGroup

ACTIONS = ("ls", "gc", "verify")


@click.command("store", cls=LazyGroup, modules={name: f"enginery.pipeline.cli.store_{name}" for name in ACTIONS})
def command() -> None:
    """Look after the store of stage results."""
