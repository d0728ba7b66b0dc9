from __future__ import annotations

from typing import Any

import click

from enginery.pipeline.cli.stage import run_stage, stage_options


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
def command(advise: bool, macs: float, **options: Any) -> None:
    """Run the recipe's module passes, or say which ones would pay.

    Prints the folder of the result: `compress.json` with every pass's metric, parameters and multiply-accumulates.

    With --advise, prunes, factorizes and rounds each layer by itself, without training, and prints what that costs in
    the recipe's metric and saves; then proposes `module_passes` that reach --macs. Nothing is stored.
    """
    if advise:
        _advise(macs, **options)
        return
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


def _advise(macs: float, *, recipe: str, trust: bool, explain: bool, as_json: bool, **stored: Any) -> None:
    from enginery.passes.module.advise import advise
    from enginery.pipeline.cli.options import echo_json
    from enginery.pipeline.cli.terminal import Terminal
    from enginery.pipeline.events import StageName
    from enginery.pipeline.line import Line
    from enginery.pipeline.recipe.file import load_recipe
    from enginery.pipeline.report.advice import advice_lines
    from enginery.pipeline.store import Store

    with Terminal.from_context(explain=explain) as terminal:
        line = Line(load_recipe(recipe), Store.beside(stored["output"]), terminal, trust=trust)
        module, context = line.compression.open()
        stage = StageName("advise")
        found = advise(
            module, context, macs=macs, progress=lambda done, all_: terminal.progress(stage, done, all_, "trials")
        )
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo("\n".join(advice_lines(found, macs)))
