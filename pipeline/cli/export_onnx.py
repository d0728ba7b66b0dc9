from __future__ import annotations

from typing import Any

import click

from enginery.pipeline.cli.stage import run_stage, stage_options


@click.command("onnx")
@stage_options
def command(**options: Any) -> None:
    """Export a recipe's model to ONNX, and run it at every shape.

    Prints the folder of the result: `model/model.onnx`, compared with the original at min, opt, max and an odd size of
    every dynamic dimension.
    """
    run_stage(lambda line: line.export, **options)
