from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import (
    bundle_argument,
    echo_json,
    json_option,
    public_key_option,
    verbosity_options,
)


@click.command("verify")
@bundle_argument
@public_key_option
@json_option
@verbosity_options
def command(bundle: Path, public_key: Path | None, as_json: bool) -> None:
    """Check that a bundle is as it was built.

    Exactly its files, each with its digest. Needs no torch and no onnx. With a public key the bundle must be signed by
    its owner, and the signature is checked before anything else.
    """
    from enginery.pipeline.bundle import verify_bundle

    verified = verify_bundle(bundle, public_key=public_key)
    manifest = verified.manifest
    if as_json:
        echo_json(
            {
                "bundle": str(bundle),
                "digest": verified.digest,
                "manifest": verified.manifest_digest,
                "signed": verified.signed,
                "public_key": str(public_key) if public_key else None,
                "files": verified.files,
                "bytes": verified.bytes,
                "name": manifest.name,
                "target": manifest.target,
                "precision": manifest.precision,
                "validated": manifest.validated,
            }
        )
        return
    click.echo(f"{bundle}: {verified.files} files, {verified.bytes:,} bytes, all as they were built.")
    click.echo(f"digest sha256:{verified.digest}")
    click.echo(f"manifest sha256:{verified.manifest_digest}")
    if public_key is not None:
        click.echo(f"The signature holds for {public_key}.")
    elif verified.signed:
        click.echo("It is signed; by whom was not checked. Give the author's key with --public-key.")
    if not manifest.validated:
        there = f"enginery validate {bundle} --recipe RECIPE"
        click.echo(f"The engine was not run yet. With the recipe of {manifest.name}: {there}")
