from __future__ import annotations

from dataclasses import asdict

import click

from enginery.pipeline.cli.options import echo_json, json_option, target_option, verbosity_options


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
        options = ",".join(f"{key}={default}" for key, default in info.options.items())
        click.echo(f"{info.name}{{{options}}}" if options else info.name)
        click.echo(f"\n{info.contract}")
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
