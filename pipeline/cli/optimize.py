from __future__ import annotations

from typing import Any

import click

from enginery.pipeline.cli.options import target_option
from enginery.pipeline.cli.stage import chosen_target, run_stage, stage_options


@click.command("optimize")
@stage_options
@target_option
def command(target: str | None, **options: Any) -> None:
    """Run the graph passes for a target.

    Prints the folder of the result: `model/model.onnx`, and what each pass changed and refused.
    """
    run_stage(lambda line: line.optimize(chosen_target(line, target)), **options)
