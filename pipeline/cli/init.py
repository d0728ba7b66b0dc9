from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import Folder, verbosity_options


@click.command("init")
@click.argument("origin", metavar="MODEL.onnx|HF_FOLDER|FILE.py[:NAME]")
@click.option("--output", "-o", type=Folder(), help="Folder for the recipe (default: the recipe's name).")
@click.option("--name", help="The recipe's name (default: the model's).")
@click.option("--input", "inputs", multiple=True, metavar="NAME:DTYPE[DIMS]", help="An input; repeat for each.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Real inputs: an .npz or a folder of them.")
@verbosity_options
def command(origin: str, output: Path | None, name: str | None, inputs: tuple[str, ...], data: Path | None) -> None:
    """Write a first recipe for your own model.

    \b
    enginery init model.onnx --data samples.npz
    enginery init ./my-bert
    enginery init net.py:Net --input 'x:float32[batch,3,224,224]'
    """
    from enginery.pipeline.scaffold import recipe_name, scaffold

    name = recipe_name(name or origin)
    written = scaffold(origin, output or Path(name), name=name, inputs=inputs, data=data)
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"Look for CHECK in what was written, then: enginery build {written[0]}")
