from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import (
    File,
    bundle_argument,
    echo_json,
    json_option,
    threads_option,
    verbosity_options,
)


@click.command("run")
@bundle_argument
@click.option("--inputs", "-i", type=File(), required=True, help="An .npz file: one array for each input.")
@click.option("--outputs", "-o", type=File(), required=True, help="Where the outputs go, as an .npz file.")
@click.option("--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Runs before the one kept.")
@threads_option
@json_option
@verbosity_options
def command(bundle: Path, inputs: Path, outputs: Path, warmup: int, threads: int | None, as_json: bool) -> None:
    """Run a bundle's engine on arrays. Needs the engine's runtime only; inputs are checked before it sees them."""
    from enginery.pipeline.npz import read_npz, write_npz
    from enginery.pipeline.session import open_session

    feeds = read_npz(inputs)
    with open_session(bundle, threads=threads) as session:
        for _ in range(warmup):
            session.run(feeds)
        answers = session.run(feeds)
        described = session.describe()
    write_npz(outputs, answers)
    if as_json:
        shapes = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in answers.items()}
        echo_json({"outputs": shapes, "file": str(outputs), "session": described})
        return
    for name, array in answers.items():
        click.echo(f"{name}: {array.dtype}{list(array.shape)}")
    click.echo(f"wrote {outputs}")
