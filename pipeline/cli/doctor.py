from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path

import click

from enginery.pipeline.cli.options import build_folder_option, echo_json, json_option, verbosity_options

MARKS = {"ok": "+", "absent": "-", "fault": "!"}


@click.command("doctor")
@build_folder_option
@json_option
@verbosity_options
def command(output: Path, as_json: bool) -> None:
    """Say what works on this machine, and what to do.

    What is installed, which engines build and run here, what clashes. Exits with 1 where something is broken (`!`);
    an engine that is merely absent (`-`) is no fault.
    """
    from enginery.pipeline.doctor import Status, examine

    checks = list(examine(output))
    if as_json:
        echo_json([asdict(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{MARKS[check.status]} {check.name}: {check.words}")
            if check.remedy:
                lines = textwrap.wrap(check.remedy, 96, break_on_hyphens=False, break_long_words=False)
                click.echo(textwrap.indent("\n".join(lines), "    "))
    if any(check.status is Status.FAULT for check in checks):
        click.get_current_context().exit(1)
