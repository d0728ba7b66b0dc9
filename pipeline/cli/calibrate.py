from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.errors import UsageError
from enginery.pipeline.cli.options import File, complete_recipe, echo_json, target_option
from enginery.pipeline.cli.sizes import Part, Size
from enginery.pipeline.cli.stage import chosen_precision, chosen_target, open_line, run_stage, stage_options_but_recipe


@click.command("calibrate")
@click.argument("recipe", nargs=-1, shell_complete=complete_recipe)
@stage_options_but_recipe
@target_option
@click.option(
    "--random-data", is_flag=True, help="Calibrate on random data where the recipe names none; no gate passes."
)
@click.option("--memory-budget", type=Size(), help="For the observed tensors of one batch, such as 512MiB [2GiB].")
@click.option("--part", type=Part(), help="Take every Nth batch from the Kth on, as K/N; workers share the data so.")
@click.option("--merge", is_flag=True, help="Merge folders of statistics, given in place of the recipe, into --to.")
@click.option("--import-cache", type=File(), help="Take the ranges of a TensorRT calibration cache; needs --to.")
@click.option("--export-cache", type=File(), help="Write the ranges as a TensorRT calibration cache, too.")
def command(recipe: tuple[str, ...], merge: bool, import_cache: Path | None, to: Path | None, **options: Any) -> None:
    """Measure statistics on the recipe's calibration data, once for all targets.

    \b
    enginery calibrate minilm
    enginery calibrate minilm --part 1/2 --to a    on one worker, 2/2 on the other
    enginery calibrate --merge a b --to merged
    enginery quantize minilm --statistics merged

    Prints the folder of the result, which `inspect`, `diff`, `--merge` and `--statistics` take. With --target, of the
    statistics as that target's graph names them. Data streams: memory depends on the model and the budget, never on
    the number of samples. Ctrl-C keeps what was seen, and the same command goes on.
    """
    if merge:
        _merge([Path(each) for each in recipe], to, as_json=options["as_json"])
        return
    if len(recipe) != 1:
        raise UsageError(f"Give one recipe; given: {len(recipe)}. Several folders are taken with --merge only.")
    if import_cache is not None:
        _import(recipe[0], import_cache, to, options)
        return
    _calibrate(recipe[0], to, **options)


def _merge(folders: list[Path], to: Path | None, *, as_json: bool) -> None:
    from enginery.pipeline.calibration import merge_statistics

    merged = merge_statistics(folders, _named(to))
    if as_json:
        echo_json({"folder": str(to), "batches": len(merged.batches), "samples": merged.samples})
    else:
        click.echo(to)


def _import(recipe: str, cache: Path, to: Path | None, options: dict[str, Any]) -> None:
    from enginery.pipeline.calibration import read_cache
    from enginery.pipeline.line import MODEL

    folder = _named(to)
    with open_line(recipe, options["output"], trust=options["trust"], explain=options["explain"]) as line:
        statistics = read_cache(cache, line.canonical.path(MODEL), folder)
    if options["as_json"]:
        echo_json({"folder": str(folder), "tensors": len(statistics.tensors)})
    else:
        click.echo(folder)


def _calibrate(
    recipe: str,
    to: Path | None,
    *,
    target: str | None,
    export_cache: Path | None,
    **options: Any,
) -> None:
    from enginery.pipeline.line import Line
    from enginery.pipeline.recipe import Precision
    from enginery.pipeline.store import Result

    found: list[tuple[Result, Precision]] = []

    def obtain(line: Line) -> Result:
        chosen = chosen_precision(line, "int8")
        result = line.calibrate() if target is None else line.statistics(chosen_target(line, target), chosen)
        found.append((result, chosen))
        return result

    given = {name: value for name, value in options.items() if value is not None}
    run_stage(obtain, recipe=recipe, to=to, **given)
    if export_cache is not None:
        from enginery.pipeline.calibration import write_cache

        result, chosen = found[0]
        write_cache(result.path("statistics"), chosen, export_cache)


def _named(to: Path | None) -> Path:
    if to is None:
        raise UsageError("Say with --to into which new folder the statistics shall go.")
    return to
