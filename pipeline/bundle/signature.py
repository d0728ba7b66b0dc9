"""Signatures of bundles: OpenSSF model signing with elliptic-curve keys (NIST P-256, P-384, P-521).

`model.sig` is a Sigstore bundle around a DSSE envelope around an in-toto statement that names every file of the
bundle with its sha256, except itself and SHA256SUMS. SHA256SUMS lists `model.sig` as well, so that a damaged signature
is noticed without a key too. The `model_signing` command line of the OpenSSF verifies these signatures, and what it
signs is verified here.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.extras import missing
from enginery.pipeline.files import write_durably

if TYPE_CHECKING:
    from model_signing.hashing import Config
    from model_signing.manifest import Manifest

SIGNATURE = "model.sig"
MAX_BYTES = 1 << 24
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = (
    "Expected: a PEM file with a key on the curve P-256, P-384 or P-521. To make a pair: `openssl ecparam -name "
    "prime256v1 -genkey -noout -out key.pem`, then `openssl ec -in key.pem -pubout -out key.pub`."
)


def make_signature(
    name: str, digests: Mapping[str, str], unsigned: Iterable[str], key: Path, password: str | None = None
) -> bytes:
    """The content of `model.sig` for files whose digests the caller has just computed.

    Args:
        name: of the bundle's folder; it becomes the name of the statement's subject.
        digests: sha256 by name of every file to sign.
        unsigned: names of files beside them that the signature cannot cover; `model.sig` is always one of them.
        key: the private key, a PEM file.
        password: of an encrypted key.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key cannot be read, or is of another kind.
    """
    try:
        from model_signing import hashing, manifest, signing
    except ImportError as error:
        raise missing(error, "sign", "Signing a bundle") from error

    class Known(hashing.Config):
        """Takes the digests as they are: nothing is read again, so nothing else than what was verified is signed."""

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> manifest.Manifest:  # noqa: ARG002
            how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            ignored = sorted({*unsigned, SIGNATURE})
            kind = manifest.SerializationType.from_args({**how, "ignore_paths": ignored})
            items = [kind.new_item(file, cast("Any", _Digest(digest))) for file, digest in digests.items()]
            return manifest.Manifest(name, items, kind)

    config = signing.Config()
    config.set_hashing_config(Known())
    _use_key(config, key, password)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / SIGNATURE
        config.sign(Path(name), written)
        return written.read_bytes()


def check_key(key: Path, password: str | None = None) -> None:
    """Check that `key` can sign, before work begins whose result it is to sign.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key cannot be read, or is of another kind.
    """
    try:
        from model_signing import signing
    except ImportError as error:
        raise missing(error, "sign", "Signing a bundle") from error
    _use_key(signing.Config(), key, password)


def _use_key(config: Any, key: Path, password: str | None) -> None:
    try:
        # model_signing declares str, and hands it to a function that takes bytes only.
        secret = cast("Any", password.encode() if password is not None else None)
        config.use_elliptic_key_signer(private_key=key, password=secret)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{key} cannot sign: {_first_line(error)}. {_KEYS}") from error


@dataclass(frozen=True)
class _Digest:
    """A sha256 in the form in which model_signing hands digests around."""

    digest_hex: str
    algorithm: str = "sha256"

    @property
    def digest_value(self) -> bytes:
        return bytes.fromhex(self.digest_hex)


def write_public_key(key: Path, target: Path, password: str | None = None) -> None:
    """Write the public half of a private key, as PEM.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the key cannot be read.
    """
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise missing(error, "sign", "Reading a key") from error
    try:
        secret = password.encode() if password is not None else None
        public = serialization.load_pem_private_key(key.read_bytes(), secret).public_key()
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{key} cannot be read as a private key: {_first_line(error)}. {_KEYS}") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    write_durably(target, public.public_bytes(serialization.Encoding.PEM, form))


def verify_signature(bundle: Path, public_key: Path, check_names: Callable[[set[str]], None]) -> dict[str, str]:
    """Verify `model.sig` and every file that it names; return name -> sha256.

    Args:
        bundle: the folder.
        public_key: a PEM file.
        check_names: is given the signed names once the signature itself was found good and before any other file is
            read; it raises where the folder holds anything else.

    Raises:
        MissingDependencyError: the extra `sign` is absent.
        UsageError: the public key cannot be read.
        IntegrityError: the signature is absent, damaged or by another key, or a file is not as it was signed.
    """
    content = _read_signature(bundle / SIGNATURE, public_key)
    try:
        from model_signing import verifying
    except ImportError as error:
        raise missing(error, "sign", f"{bundle} must be verified with a key, which") from error
    config = verifying.Config()
    try:
        config.use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{public_key} is not a public key: {_first_line(error)}. {_KEYS}") from error
    try:
        files = _payload_files(content)
        config.set_hashing_config(_after_signature(lambda: check_names(set(files))))
        with tempfile.TemporaryDirectory() as folder:
            # What is verified is what was read above, whatever happens to the bundle meanwhile.
            copy = Path(folder) / SIGNATURE
            copy.write_bytes(content)
            config.verify(bundle.resolve(), copy)  # a link to a bundle is no link in it
    except IntegrityError:
        raise
    except Exception as error:
        raise IntegrityError(
            f"{bundle}: {SIGNATURE} does not hold for {public_key}: {_first_line(error) or type(error).__name__}. "
            "Files were changed since they were signed, or another key signed them. Do not use this bundle."
        ) from error
    return files


def _read_signature(path: Path, public_key: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(
            f"{path.parent} is not signed ({path.name} is missing), but a signature that {public_key} verifies is "
            "demanded. Do not use this bundle; its author signs it with: enginery sign BUNDLE --key KEY."
        )
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path} is larger than {MAX_BYTES} bytes: it is no signature.")
    return path.read_bytes()


def _payload_files(content: bytes) -> dict[str, str]:
    """The files that the signature names: name -> sha256. Not to be believed before `verify`."""
    payload = json.loads(base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"], validate=True))
    files: dict[str, str] = {}
    for resource in payload["predicate"]["resources"]:
        name, digest = resource["name"], resource["digest"]
        if resource["algorithm"] != "sha256" or not _SHA256.fullmatch(digest) or name in files:
            raise ValueError(f"the entry {name!r} is not the sha256 of one file")
        files[name] = digest
    return files


def _after_signature(check: Callable[[], None]) -> Config:
    """How model_signing reads the files: as the signature says, but `check` comes first."""
    from model_signing import hashing

    class AfterSignature(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Manifest:
            check()
            return super().hash(model_path, files_to_hash=files_to_hash)

    return AfterSignature().set_ignored_paths(paths=(), ignore_git_paths=False)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(". ")
