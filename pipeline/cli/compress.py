from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginery.pipeline.cli.stage import run_stage, stage_options

if TYPE_CHECKING:
    from enginery.passes.module.advise import Budget


@click.command("compress")
@stage_options
@click.option("--advise", is_flag=True, help="Measure each layer instead, and propose module passes.")
@click.option(
    "--macs",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="With --advise: the share of multiply-accumulates that may remain.",
)
@click.option(
    "--latency",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --advise: the share of the engine's latency that may remain; counts instead of --macs.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    help="With --advise: what the metric may lose, in its own units: 0.005 is half a point of top1.",
)
@click.option("--no-latency", is_flag=True, help="With --advise: build no engines; MACs stand for latency.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="With --advise: draw the figures into this page."
)
def command(
    advise: bool,
    macs: float,
    latency: float | None,
    max_drop: float | None,
    no_latency: bool,
    html: Path | None,
    **options: Any,
) -> None:
    """Run the recipe's module passes, or say which ones would pay.

    Prints the folder of the result: `compress.json` with every pass's metric, parameters and multiply-accumulates.

    With --advise, prunes, factorizes and rounds each layer by itself, without training, and prints what that costs in
    the recipe's metric and saves in size and in the measured latency of the engine; then proposes `module_passes` that
    reach the budget, such as `--latency 0.5 --max-drop 0.005`. Nothing is stored.
    """
    if advise:
        from enginery.passes.module.advise import Budget

        if latency is not None and no_latency:
            raise click.UsageError("--latency needs the measurement that --no-latency leaves out.")
        _advise(Budget(macs, latency, max_drop), timed=not no_latency, html=html, **options)
        return
    if latency is not None or max_drop is not None or no_latency or html is not None:
        raise click.UsageError("--latency, --max-drop, --no-latency and --html go with --advise.")
    from enginery.pipeline.line import Line
    from enginery.pipeline.store import Result

    def obtain(line: Line) -> Result:
        from enginery.errors import UsageError

        if line.compress is None:
            raise UsageError(
                f"{line.recipe.name} lists no `module_passes`. List some (`enginery passes` names them), or ask "
                "`enginery compress --advise`."
            )
        return line.compress

    run_stage(obtain, **options)


def _advise(
    budget: Budget,
    *,
    timed: bool,
    html: Path | None,
    recipe: str,
    trust: bool,
    explain: bool,
    as_json: bool,
    **stored: Any,
) -> None:
    from enginery.passes.module.advise import advise
    from enginery.pipeline.cli.options import echo_json
    from enginery.pipeline.cli.terminal import Terminal
    from enginery.pipeline.events import StageName
    from enginery.pipeline.line import Line
    from enginery.pipeline.line.trials import engine_trials
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.report.advice import advice_lines
    from enginery.pipeline.report.advice_page import advice_page
    from enginery.pipeline.store import Store

    with Terminal.from_context(explain=explain) as terminal, ExitStack() as stack:
        line = Line(load_recipe(recipe), Store.beside(stored["output"]), terminal, trust=trust)
        module, context = line.compression.open()
        stage = StageName("advise")
        found = advise(
            module,
            context,
            budget,
            trials=stack.enter_context(engine_trials(line, module, line.example())) if timed else None,
            progress=lambda done, all_: terminal.progress(stage, done, all_, "trials"),
        )
    if html is not None:
        html.write_text(advice_page(found, budget, line.recipe.name), encoding="utf-8")
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo("\n".join(advice_lines(found, budget)))
