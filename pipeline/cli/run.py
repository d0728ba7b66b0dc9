from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.pipeline.cli.options import (
    File,
    bundle_argument,
    echo_json,
    engine_option,
    json_option,
    public_key_option,
    threads_option,
    verbosity_options,
)


@click.command("run")
@bundle_argument
@click.option("--inputs", "-i", type=File(), help="An .npz file: one array for each input.")
@click.option("--outputs", "-o", type=File(), help="Where the outputs go, as an .npz file.")
@click.option("--selftest", is_flag=True, help="Run the golden inputs first and compare with the recorded outputs.")
@click.option("--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Runs before the one kept.")
@click.option("--provider", help="Demand that the engine runs on this provider, such as CPUExecutionProvider.")
@threads_option
@engine_option
@public_key_option
@json_option
@verbosity_options
def command(
    bundle: Path,
    inputs: Path | None,
    outputs: Path | None,
    *,
    selftest: bool,
    warmup: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a bundle's engine on arrays. Needs the engine's runtime only; inputs are checked before it sees them.

    With --selftest alone it says whether the engine answers here as it did where it was built.
    """
    from enginery.pipeline.bundle import must_be_outside
    from enginery.pipeline.bundle.session import open_session
    from enginery.pipeline.npz import read_npz, write_npz

    if (inputs is None) != (outputs is None) or (inputs is None and not selftest):
        raise click.UsageError("Give --inputs and --outputs, or --selftest, or all three.")
    if outputs is not None:
        must_be_outside(outputs, bundle)
    feeds = None if inputs is None else read_npz(inputs)
    with open_session(bundle, selftest=selftest, **options) as session:
        for _ in range(warmup if feeds is not None else 0):
            session.run(feeds or {})
        answers = {} if feeds is None else session.run(feeds)
        described = session.describe()
    if outputs is not None:
        write_npz(outputs, answers)
    if as_json:
        shapes = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in answers.items()}
        file = None if outputs is None else str(outputs)
        echo_json({"outputs": shapes, "file": file, "session": described, "selftest": selftest})
        return
    if selftest:
        click.echo("self-test passed: the engine answers as it did where it was built")
    for name, array in answers.items():
        click.echo(f"{name}: {array.dtype}{list(array.shape)}")
    if outputs is not None:
        click.echo(f"wrote {outputs}")
