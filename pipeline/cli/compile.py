from __future__ import annotations

from typing import Any

import click

from enginery.pipeline.cli.options import precision_option, target_option
from enginery.pipeline.cli.stage import chosen_precision, chosen_target, run_stage, stage_options


@click.command("compile")
@stage_options
@target_option
@precision_option
def command(target: str | None, precision: str | None, **options: Any) -> None:
    """Build a target's engine, unchecked: no gate is asked.

    Prints the folder of the result. `enginery build` is what makes a bundle out of it.
    """
    run_stage(lambda line: line.compile(chosen_target(line, target), chosen_precision(line, precision)), **options)
