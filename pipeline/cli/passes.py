from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from enginery.pipeline.cli.options import echo_json, json_option, target_option, verbosity_options

if TYPE_CHECKING:
    from enginery.pipeline.recipe.catalogue import PassInfo


@click.command("passes")
@click.argument("name", required=False)
@target_option
@json_option
@verbosity_options
def command(name: str | None, target: str | None, as_json: bool) -> None:
    """List the passes, or explain one.

    With NAME, print what the pass promises, case by case, and its options.

    With --target, list the passes that `graph_passes: default` means for that target, in order, with what each does.
    """
    from enginery.pipeline.recipe.catalogue import catalogue, default_specs, find_pass

    if name is not None:
        info = find_pass(name)
        if as_json:
            echo_json(asdict(info))
            return
        click.echo("\n".join(_explained(info)))
    elif target is not None:
        specs = default_specs(target)
        summaries = {info.name: info.summary for info in catalogue()}
        width = max(map(len, specs))
        if as_json:
            echo_json(list(specs))
        for spec in () if as_json else specs:
            click.echo(f"{spec:<{width}}  {summaries[spec.partition('{')[0]]}")
    elif as_json:
        echo_json([asdict(info) for info in catalogue()])
    else:
        passes = catalogue()
        width = max(len(info.name) for info in passes)
        for kind, title in (("module", "On modules"), ("graph", "On graphs"), ("quantize", "Remedies of int8")):
            click.echo(f"{title}:")
            for info in passes:
                if info.kind == kind:
                    click.echo(f"  {info.name:<{width}}  {info.summary}")


def _explained(info: PassInfo) -> Iterator[str]:
    """The contract, the pass's own options, then those that it shares with others and what these mean."""
    yield from (info.name, "", info.contract)
    inherited = {option for shared in info.shared for option in shared.options}
    if own := [option for option in info.options if option not in inherited]:
        yield from ("", "Options:", *_rows(info, own))
    for shared in info.shared:
        yield from ("", f"{shared.title} options:", *_rows(info, shared.options), "", shared.contract)


def _rows(info: PassInfo, options: Iterable[str]) -> Iterator[str]:
    shown = {option: f"{option}={info.options[option]}" for option in options}
    width = max(map(len, shown.values()))
    yield from (f"  {text:<{width}}  {info.values[option]}" for option, text in shown.items())
