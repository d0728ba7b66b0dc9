from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.errors import UsageError
from enginery.pipeline.cli.options import echo_json, precision_option, statistics_option, target_option
from enginery.pipeline.cli.stage import chosen_precision, chosen_target, open_line, run_stage, stage_options


@click.command("quantize")
@stage_options
@target_option
@precision_option
@statistics_option
@click.option("--advise", is_flag=True, help="Measure every precision that makes sense, and say which to take and why.")
@click.option(
    "--target-metric-drop",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="Find the fastest int8 engine that loses at most this much of the original's metric.",
)
@click.option(
    "--sensitivity", is_flag=True, help="Say what each node's rounding to int8 does to the outputs, alone and left out."
)
def command(
    target: str | None,
    precision: str | None,
    statistics: Path | None,
    advise: bool,
    target_metric_drop: float | None,
    sensitivity: bool,
    **options: Any,
) -> None:
    """Make the graph of a target's precision, by the target's policy.

    \b
    enginery quantize minilm --precision int8
    enginery quantize minilm --advise                     which precision, and why
    enginery quantize minilm --sensitivity                which nodes lose the accuracy
    enginery quantize minilm --target-metric-drop 0.2     int8, with what must stay in float

    Prints the folder of the result: `model/model.onnx` with Q/DQ pairs or casts, and what was left in float and why.
    The percentage is of the original's own figure: 0.2 of a top-1 of 0.6044 is 0.0012.
    """
    asked = (advise, sensitivity, target_metric_drop is not None)
    if any(asked):
        if sum(asked) > 1:
            raise UsageError(
                "--advise compares precisions, --sensitivity nodes, --target-metric-drop searches in int8; give one of "
                "them."
            )
        if options.pop("to") is not None:
            raise UsageError("--to copies one stage's result; what was found here is built from the recipe's lines.")
        _choose(target, precision, target_metric_drop, sensitivity=sensitivity, statistics=statistics, **options)
        return
    run_stage(
        lambda line: line.quantize(chosen_target(line, target), chosen_precision(line, precision)),
        statistics=statistics,
        **options,
    )


def _choose(
    target: str | None,
    precision: str | None,
    percent: float | None,
    *,
    sensitivity: bool,
    as_json: bool,
    **options: Any,
) -> None:
    from enginery.passes.quantize import Sensitivity
    from enginery.pipeline.choice.advice_text import advice_lines, found_lines, sensitivity_lines
    from enginery.pipeline.choice.advise import advise
    from enginery.pipeline.choice.search import search

    if precision not in (None, "int8"):
        raise UsageError(f"--precision {precision} leaves nothing to choose; leave it out.")
    with open_line(**options) as line:
        name = chosen_target(line, target)
        if sensitivity:
            int8 = chosen_precision(line, "int8")
            nodes = Sensitivity.from_json(line.sensitivity(name, int8).json("sensitivity.json"))
            document, lines = nodes.to_json(), sensitivity_lines(name, nodes, int8)
        elif percent is None:
            advice = advise(line, name)
            document, lines = advice.to_json(), advice_lines(advice)
        else:
            found = search(line, name, chosen_precision(line, "int8"), percent)
            document, lines = found.to_json(), found_lines(found)
    if as_json:
        echo_json(document)
    else:
        click.echo("\n".join(lines))
