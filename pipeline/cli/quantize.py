from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.pipeline.cli.options import precision_option, statistics_option, target_option
from enginery.pipeline.cli.stage import chosen_precision, chosen_target, run_stage, stage_options


@click.command("quantize")
@stage_options
@target_option
@precision_option
@statistics_option
def command(target: str | None, precision: str | None, statistics: Path | None, **options: Any) -> None:
    """Make the graph of a target's precision, by the target's policy.

    Prints the folder of the result: `model/model.onnx` with Q/DQ pairs or casts, and what was left in float and why.
    """
    run_stage(
        lambda line: line.quantize(chosen_target(line, target), chosen_precision(line, precision)),
        statistics=statistics,
        **options,
    )
