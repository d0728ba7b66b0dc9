"""Signing a bundle: provenance first, then one signature over every file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from enginery.pipeline.bundle.folder import PROVENANCE, SUMS, Verified, must_be_bundle, sums_text, verify_to_sign
from enginery.pipeline.bundle.signature import SIGNATURE, make_signature
from enginery.pipeline.files import write_together
from enginery.pipeline.release.provenance import LOCAL_BUILDER, sign_statement, statement
from enginery.pipeline.store.locks import hold_folder


@dataclass(frozen=True)
class Signer:
    """Who signs: the private key (a PEM file), the password of an encrypted one, and a URI that names who built."""

    key: Path
    password: str | None = None
    builder: str = LOCAL_BUILDER


def sign_bundle(
    bundle: Path,
    key: Path,
    *,
    password: str | None = None,
    builder: str = LOCAL_BUILDER,
    finished: str | None = None,
    name: str | None = None,
) -> Verified:
    """Verify a bundle's digests, then write its provenance, its signature and the sums of both.

    A bundle that is signed already is signed anew. An error, such as a full disk, leaves the bundle as it was. A
    process that is killed while it renames the files leaves one that does not verify, and that can be signed again.

    Args:
        bundle: the folder.
        key: the private key, a PEM file with an elliptic-curve key.
        password: of an encrypted key.
        builder: a URI that names who built.
        finished: when the build ended (RFC 3339), for the provenance.
        name: of the folder in which the bundle is to stand, where it does not stand there yet.

    Raises:
        IntegrityError: a file of the bundle is not as it was built; nothing was signed.
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key or the builder's URI is wrong.
    """
    must_be_bundle(bundle)
    bundle = bundle.resolve()
    with hold_folder(bundle):
        verified = verify_to_sign(bundle)
        document = statement(verified.manifest, verified.manifest_digest, builder=builder, finished=finished)
        envelope = sign_statement(document, key, password).encode()
        sums = {**verified.sums, PROVENANCE: _sha256(envelope)}
        signature = make_signature(name or bundle.name, sums, {SUMS}, key, password)
        sums[SIGNATURE] = _sha256(signature)
        listed = sums_text(sums).encode()
        write_together(bundle, {PROVENANCE: envelope, SIGNATURE: signature, SUMS: listed})
    size = verified.bytes + len(envelope) + len(signature)
    return replace(verified, files=len(sums) + 1, bytes=size, digest=_sha256(listed), sums=sums)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
