from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.pipeline.cli.options import Folder, verbosity_options


@click.command("init")
@click.argument("origin", metavar="MODEL.onnx|HF_FOLDER|MODEL.pt2|FILE.py[:NAME]")
@click.option("--output", "-o", type=Folder(), help="Folder for the recipe (default: the recipe's name).")
@click.option("--name", help="The recipe's name (default: the model's).")
@click.option("--input", "inputs", multiple=True, metavar="NAME:DTYPE[DIMS]", help="An input; repeat for each.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Real inputs: an .npz or a folder of them.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint for FILE.py's module: safetensors or a state dict.",
)
@verbosity_options
def command(output: Path | None, name: str | None, origin: str, **given: Any) -> None:
    """Write a first recipe for your own model.

    \b
    enginery init net.py:Net --weights net.pt --data samples.npz
    enginery init net.py:Net --input 'x:float32[batch,3,224,224]'
    enginery init model.onnx --data samples.npz
    enginery init ./my-bert
    """
    from enginery.pipeline.scaffold import recipe_name, scaffold

    name = recipe_name(name or origin)
    written = scaffold(origin, output or Path(name), name=name, **given)
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"Look for CHECK in what was written, then: enginery build {written[0]}")
