from __future__ import annotations

from pathlib import Path

import click

from enginery.pipeline.cli.options import (
    File,
    builder_option,
    bundle_argument,
    echo_json,
    json_option,
    key_option,
    verbosity_options,
)


@click.command("sign")
@bundle_argument
@key_option(required=True)
@builder_option
@click.option("--write-public-key", type=File(), help="Write the key's public half here, for whoever verifies.")
@json_option
@verbosity_options
def command(bundle: Path, key: Path, builder: str | None, write_public_key: Path | None, as_json: bool) -> None:
    """Sign a bundle: write its provenance and one signature over every file.

    The password of an encrypted key is read from the environment variable ENGINERY_KEY_PASSWORD.
    """
    import os

    from enginery.pipeline.bundle import must_be_outside
    from enginery.pipeline.bundle.signature import write_public_key as write_key
    from enginery.pipeline.release.provenance import LOCAL_BUILDER
    from enginery.pipeline.release.sign import sign_bundle

    if write_public_key is not None:
        must_be_outside(write_public_key, bundle)
    password = os.environ.get("ENGINERY_KEY_PASSWORD")
    signed = sign_bundle(bundle, key, password=password, builder=builder or LOCAL_BUILDER)
    if write_public_key is not None:
        write_key(key, write_public_key, password)
    if as_json:
        echo_json({"bundle": str(bundle), "digest": signed.digest, "manifest": signed.manifest_digest})
        return
    click.echo(f"{bundle}: signed {signed.files} files.")
    click.echo(f"digest sha256:{signed.digest}")
    click.echo(f"manifest sha256:{signed.manifest_digest}")
