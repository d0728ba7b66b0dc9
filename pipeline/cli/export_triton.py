from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import Folder, echo_json, json_option, public_key_option, verbosity_options


@click.command("triton")
@click.argument("bundles", nargs=-1, required=True, type=Folder(), metavar="BUNDLE...")
@click.argument("repository", type=Folder())
@click.option("--name", help="The model's name in Triton (default: the recipe's).")
@click.option("--version", type=click.IntRange(min=1), help="Its version (default: one more than the last).")
@click.option("--keep", type=click.IntRange(min=1), default=1, show_default=True, help="Serve this many versions.")
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Instances per device.")
@public_key_option
@json_option
@verbosity_options
def command(
    bundles: tuple[Path, ...],
    repository: Path,
    name: str | None,
    version: int | None,
    keep: int,
    instances: int,
    public_key: Path | None,
    as_json: bool,
) -> None:
    """Add a bundle to a model repository of Triton Inference Server.

    The bundle is verified, its latency by batch size is measured where the engine runs here, and what is written is
    held against Triton's schema and our own checks. Several TensorRT bundles of one recipe, each for another compute
    capability, become one model.
    """
    from enginery.pipeline.release.batching import to_json
    from enginery.pipeline.release.triton import export_triton

    done = export_triton(
        bundles,
        repository,
        name=name,
        version=version,
        keep_versions=keep,
        instances=instances,
        public_key=public_key,
    )
    if as_json:
        document = {"folder": str(done.folder), "version": done.version, "notes": list(done.notes)}
        echo_json({**document, "batching": to_json(done.batching) if done.batching else None})
        return
    click.echo(f"{done.folder}: version {done.version}")
    for note in done.notes:
        click.echo(f"  {note}")
