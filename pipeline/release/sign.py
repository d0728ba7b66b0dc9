"""Signing a bundle: provenance first, then one signature over every file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginery.pipeline.bundle.folder import (
    PROVENANCE,
    RELEASE_FILES,
    SUMS,
    Verified,
    verify_to_sign,
    write_known_sums,
)
from enginery.pipeline.bundle.signature import SIGNATURE, write_signature
from enginery.pipeline.files import sha256_file, write_durably
from enginery.pipeline.release.provenance import LOCAL_BUILDER, sign_statement, statement


def sign_bundle(
    bundle: Path, key: Path, *, password: str | None = None, builder: str = LOCAL_BUILDER, finished: str | None = None
) -> Verified:
    """Verify a bundle's digests, then write its provenance, its signature and the sums of both.

    A bundle that is signed already is signed anew. A process that is killed in between leaves a bundle that does not
    verify, and that can be signed again.

    Args:
        bundle: the folder.
        key: the private key, a PEM file with an elliptic-curve key.
        password: of an encrypted key.
        builder: a URI that names who built.
        finished: when the build ended (RFC 3339), for the provenance.

    Raises:
        IntegrityError: a file of the bundle is not as it was built; nothing was signed.
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key or the builder's URI is wrong.
    """
    verified = verify_to_sign(bundle)
    document = statement(verified.manifest, verified.manifest_digest, builder=builder, finished=finished)
    envelope = sign_statement(document, key, password)
    write_durably(bundle / PROVENANCE, envelope.encode())
    write_signature(bundle, {SUMS, SIGNATURE}, key, password)
    fresh = {name: sha256_file(bundle / name) for name in sorted(RELEASE_FILES)}
    sums = {**verified.sums, **fresh}
    write_known_sums(bundle, sums)
    return replace(verified, files=len(sums) + 1, digest=sha256_file(bundle / SUMS), sums=sums)
