from __future__ import annotations

from typing import Any

import click

from enginery.pipeline.cli.options import target_option
from enginery.pipeline.cli.stage import chosen_target, run_stage, stage_options

MIB = 1 << 20


@click.command("calibrate")
@stage_options
@target_option
@click.option(
    "--random-data", is_flag=True, help="Calibrate on random data where the recipe names none; no gate passes."
)
@click.option("--memory", type=click.IntRange(min=64), help="Budget for activations, in MiB (default: 2048).")
def command(target: str | None, random_data: bool, memory: int | None, **options: Any) -> None:
    """Measure statistics on the recipe's calibration data.

    Prints the folder of the result; `statistics/` in it is what `inspect` and `diff` read. Data streams: memory depends
    on the model and the budget, never on the number of samples.
    """
    budget = {} if memory is None else {"memory_budget": memory * MIB}
    run_stage(lambda line: line.calibrate(), random_data=random_data, **budget, **options)
