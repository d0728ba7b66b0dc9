from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import (
    Folder,
    bundle_argument,
    echo_json,
    json_option,
    public_key_option,
    verbosity_options,
)


@click.command("ort")
@bundle_argument
@click.argument("folder", type=Folder())
@public_key_option
@json_option
@verbosity_options
def command(bundle: Path, folder: Path, public_key: Path | None, as_json: bool) -> None:
    """Write a bundle's engine in ONNX Runtime's format for mobile devices.

    The file is run on the golden inputs, and delivered only where it answers like the bundle's engine.
    """
    from enginery.pipeline.release.ort_format import export_ort

    done = export_ort(bundle, folder, public_key=public_key)
    if as_json:
        figures = [output.to_json() for output in done.figures]
        echo_json({"file": str(done.path), "sha256": done.sha256, "cases": done.cases, "outputs": figures})
        return
    click.echo(f"{done.path}: answers {done.cases} golden cases like the bundle's engine")
    click.echo(f"sha256:{done.sha256}")
