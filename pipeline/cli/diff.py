from __future__ import annotations

from dataclasses import asdict

import click

from enginery.pipeline.cli.options import Folder, echo_json, json_option, verbosity_options


@click.command("diff")
@click.argument("before", type=Folder())
@click.argument("after", type=Folder())
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.1, show_default=True, help="Relative change.")
@json_option
@verbosity_options
def command(before: str, after: str, tolerance: float, as_json: bool) -> None:
    """Compare two statistics, tensor by tensor.

    Ranges that moved are listed, the worst first. Exits with 1 where any did.
    """
    from pathlib import Path

    from enginery.passes.calibration import Statistics

    first, second = Statistics.load(Path(before)), Statistics.load(Path(after))
    difference = first.diff(second, tolerance=tolerance)
    if as_json:
        echo_json(asdict(difference))
    else:
        if first.graph_digest != second.graph_digest:
            graphs = f"{first.graph_digest[:12]} and {second.graph_digest[:12]}"
            click.echo(f"of different graphs ({graphs}): tensors are compared by name")
        for name in difference.only_first:
            click.echo(f"only in {before}: {name}")
        for name in difference.only_second:
            click.echo(f"only in {after}: {name}")
        for change in difference.moved:
            (low, high), (new_low, new_high) = change.before, change.after
            click.echo(
                f"{change.ratio:8.2f}x  [{low:.4g}, {high:.4g}] -> [{new_low:.4g}, {new_high:.4g}]  {change.tensor}"
            )
        if not difference:
            click.echo(f"No range of {len(first.tensors)} tensors moved by more than {100 * tolerance:g}%.")
    if difference:
        click.get_current_context().exit(1)
