"""Provenance: SLSA v1 (https://slsa.dev/spec/v1.0/provenance) as an in-toto statement in a signed DSSE envelope.

`provenance.intoto.jsonl` can leave the bundle and be kept beside it: it names the bundle's files by digest and says
from what recipe, weights, data and packages they were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle.manifest import FILE_NAME, Manifest
from enginery.pipeline.extras import missing
from enginery.pipeline.files import canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey  # pyright: ignore[reportPrivateImportUsage] (it has no __all__)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:enginery:build:v1"
"""What the parameters mean; docs/release.md describes it."""

LOCAL_BUILDER = "urn:enginery:builder:local"
"""The builder where none is named: somebody's machine, which vouches for nothing (SLSA build level 1)."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def statement(
    manifest: Manifest, manifest_digest: str, *, builder: str = LOCAL_BUILDER, finished: str | None = None
) -> dict[str, Any]:
    """The in-toto statement about a bundle.

    Args:
        manifest: of the bundle.
        manifest_digest: sha256 of the manifest file.
        builder: a URI that names who built, such as the address of a pipeline's definition.
        finished: when the build ended, in the form of RFC 3339, where it is known.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: `builder` is no URI.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:\S+$", builder):
        raise UsageError(f"The builder {builder!r} is no URI. Name one, such as https://ci.example.org/enginery.")
    digests = {name: record.sha256 for name, record in manifest.files.items()} | {FILE_NAME: manifest_digest}
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(manifest, builder, finished),
    }
    _validate(document)
    return document


def _predicate(manifest: Manifest, builder: str, finished: str | None) -> dict[str, Any]:
    metadata = {"finishedOn": finished} if finished else {}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "recipe": manifest.recipe,
                "target": manifest.target,
                "precision": manifest.precision,
                "allowed": list(manifest.allowed),
            },
            "internalParameters": {
                "stages": {f"{stage.stage} {stage.label}".strip(): stage.key for stage in manifest.stages}
            },
            "resolvedDependencies": list(_materials(manifest)),
        },
        "runDetails": {
            "builder": {"id": builder, "version": {"enginery": manifest.enginery}},
            "metadata": metadata,
        },
    }


def _materials(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """What went in: the original, the data, and the packages that did the work."""
    for name, value in sorted(manifest.original.items()):
        if isinstance(value, str) and _SHA256.fullmatch(value):
            yield {"name": f"original {name}", "digest": {"sha256": value}}
    for name, digest in sorted(manifest.data.items()):
        if _SHA256.fullmatch(digest):
            yield {"name": f"data {name}", "digest": {"sha256": digest}}
    for name, version in tools(manifest).items():
        yield {"name": name, "uri": f"pkg:pypi/{name}@{version}"}


def tools(manifest: Manifest) -> dict[str, str]:
    """The packages that the stages called, and their versions."""
    found = {name: version for stage in manifest.stages for name, version in stage.tools.items() if name != "python"}
    return dict(sorted(found.items()))


def _validate(document: dict[str, Any]) -> None:
    """Hold the statement against the protobuf schemas of in-toto; a field they do not know is an error."""
    try:
        from google.protobuf import json_format
        from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
        from in_toto_attestation.v1 import statement_pb2
        from in_toto_attestation.v1.statement import Statement
    except ImportError as error:
        raise missing(error, "sign", "Provenance") from error
    # Generated modules; their classes appear at run time.
    slsa, in_toto = cast("Any", provenance_pb2), cast("Any", statement_pb2)
    json_format.ParseDict(document["predicate"], slsa.Provenance())
    Statement.copy_from_pb(json_format.ParseDict(document, in_toto.Statement())).validate()


def sign_statement(document: dict[str, Any], key: Path, password: str | None = None) -> str:
    """One line of JSON: the statement in a DSSE envelope, signed.

    Args:
        document: the statement.
        key: the private key, a PEM file.
        password: of an encrypted key.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key cannot be read, or is of another kind.
    """
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise missing(error, "sign", "Signing provenance") from error
    try:
        private: Any = load_pem_private_key(key.read_bytes(), password.encode() if password is not None else None)
        signer = CryptoSigner(private)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{key} is not a private key that can sign: {error}") from error
    envelope = Envelope(canonical_json(document), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")) + "\n"


def read_statement(path: Path, public_key: Path) -> dict[str, Any]:
    """Verify an envelope and return its statement.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        IntegrityError: the envelope is damaged, or the key did not sign it.
    """
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
    except ImportError as error:
        raise missing(error, "sign", "Verifying provenance") from error
    key = _public_key(public_key)
    try:
        envelope = Envelope.from_dict(json.loads(path.read_bytes()))
        envelope.verify([key], threshold=1)
        document = json.loads(envelope.payload)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VerificationError) as error:
        raise IntegrityError(f"{path} does not hold for {public_key}: {error}. Do not rely on it.") from error
    if envelope.payload_type != PAYLOAD_TYPE or document.get("predicateType") != PREDICATE_TYPE:
        raise IntegrityError(f"{path} is signed, but is no SLSA provenance.")
    return document


def _public_key(path: Path) -> SSlibKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # pyright: ignore[reportPrivateImportUsage]

    try:
        public: Any = load_pem_public_key(path.read_bytes())
        return SSlibKey.from_crypto(public)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a public key: {error}") from error
