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


@click.command("oci")
@bundle_argument
@click.argument("layout", type=Folder())
@click.option("--tag", help="The artifact's name in the layout (default: <target>-<precision>).")
@public_key_option
@json_option
@verbosity_options
def command(bundle: Path, layout: Path, tag: str | None, public_key: Path | None, as_json: bool) -> None:
    """Add a bundle to an OCI image layout, from where any registry tool pushes it.

    Such as: oras copy --from-oci-layout LAYOUT:TAG registry.example.org/models/minilm:TAG
    """
    from enginery.pipeline.release.oci import export_oci

    done = export_oci(bundle, layout, tag=tag, public_key=public_key)
    if as_json:
        echo_json({"layout": str(done.layout), "tag": done.tag, "digest": done.digest, "layers": done.layers})
        return
    click.echo(f"{done.layout}:{done.tag}  {done.digest}  {done.layers} layers")
    click.echo(f"push it with: oras copy --from-oci-layout {done.layout}:{done.tag} REGISTRY/NAME:{done.tag}")
