"""Export to an OCI image layout: an artifact as ORAS writes them, for `oras copy --from-oci-layout` to push.

Specification: https://github.com/opencontainers/image-spec (layout 1.0.0, manifest with `artifactType`, 1.1).
Every file of the bundle is a layer of its own, so that unchanged weights are neither stored nor sent twice.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle import SUMS, Verified, must_be_outside, verify_bundle
from enginery.pipeline.files import canonical_json, sha256_file, sync_folder, write_durably
from enginery.pipeline.store.locks import hold

LAYOUT: Final = {"imageLayoutVersion": "1.0.0"}
ARTIFACT: Final = "application/vnd.enginery.bundle.v1"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
FILE: Final = "application/octet-stream"
TITLE: Final = "org.opencontainers.image.title"
REFERENCE: Final = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Artifact:
    """An artifact in a layout: `digest` is what a registry will call it."""

    layout: Path
    tag: str
    digest: str
    layers: int


def export_oci(bundle: Path, layout: Path, *, tag: str | None = None, public_key: Path | None = None) -> Artifact:
    """Add a bundle to an image layout, which is made where it is absent.

    Args:
        bundle: the bundle; it is verified first.
        layout: the layout's folder.
        tag: its name there (default: `<target>-<precision>`); another artifact of that name loses it.
        public_key: demand a signature that this key verifies.

    Raises:
        UsageError: `layout` is a folder of something else or lies in the bundle, or the tag is not one.
        IntegrityError: the bundle does not verify.
    """
    must_be_outside(layout, bundle)
    bundle = bundle.resolve()
    verified = verify_bundle(bundle, public_key=public_key)
    tag = tag or f"{verified.manifest.target}-{verified.manifest.precision}"
    _check_tag(tag)
    layout.parent.mkdir(parents=True, exist_ok=True)
    # Two exports at once would each write an index without the other's artifact.
    with hold(layout.parent / f".{layout.name}.lock", lambda: None):
        _prepare(layout)
        layers = [_layer(layout, bundle, name) for name in sorted([*verified.sums, SUMS])]
        descriptor = _blob(layout, _manifest(verified, layers), MANIFEST)
        index = {**descriptor, "artifactType": ARTIFACT, "annotations": {REFERENCE: tag}}
        _add_to_index(layout, index, tag)
    return Artifact(layout, tag, descriptor["digest"], len(layers))


def _check_tag(tag: str) -> None:
    allowed = tag.replace(".", "").replace("-", "").replace("_", "")
    if not allowed.isalnum() or not allowed.isascii() or tag[0] in ".-" or len(tag) > 128:
        raise UsageError(f"{tag!r} is no tag. Expected letters, digits, `_`, `.` and `-`, at most 128, such as v1.2.")


def _prepare(layout: Path) -> None:
    if layout.exists() and any(layout.iterdir()) and not (layout / "oci-layout").is_file():
        raise UsageError(f"{layout} is not empty and no OCI image layout. Name a new folder, or a layout to add to.")
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    write_durably(layout / "oci-layout", canonical_json(LAYOUT))


def _manifest(verified: Verified, layers: list[dict[str, Any]]) -> bytes:
    """No time in it: the same bundle is the same artifact."""
    manifest = verified.manifest
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            # The spec's empty config is its two bytes, carried inline.
            "config": {**_descriptor(b"{}", EMPTY), "data": "e30="},
            "layers": layers,
            "annotations": {
                "org.opencontainers.image.title": manifest.name,
                "org.opencontainers.image.version": f"{manifest.target}-{manifest.precision}",
                "org.opencontainers.image.description": str(manifest.recipe.get("description", "")),
                "enginery.manifest.sha256": verified.manifest_digest,
                "enginery.bundle.sha256": verified.digest,
            },
        }
    )


def _descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _blob(layout: Path, content: bytes, media_type: str) -> dict[str, Any]:
    descriptor = _descriptor(content, media_type)
    for data in (content, b"{}"):
        path = layout / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()
        if not path.exists():
            write_durably(path, data)
    return descriptor


def _layer(layout: Path, bundle: Path, name: str) -> dict[str, Any]:
    """Copy one file as a blob. What was copied is what is described, whatever happens to the bundle meanwhile."""
    copy = layout / "blobs" / "sha256" / f".new.{secrets.token_hex(4)}"
    try:
        shutil.copyfile(bundle / name, copy)
        digest, size = sha256_file(copy), copy.stat().st_size
        copy.replace(layout / "blobs" / "sha256" / digest)
    finally:
        copy.unlink(missing_ok=True)
    sync_folder(layout / "blobs" / "sha256")
    return {"mediaType": FILE, "digest": f"sha256:{digest}", "size": size, "annotations": {TITLE: name}}


def _add_to_index(layout: Path, descriptor: dict[str, Any], tag: str) -> None:
    path = layout / "index.json"
    others: list[dict[str, Any]] = []
    if path.exists():
        try:
            others = json.loads(path.read_bytes())["manifests"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is no index of an OCI image layout: {error}.") from error
    kept = [entry for entry in others if entry.get("annotations", {}).get(REFERENCE) != tag]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*kept, descriptor]}
    write_durably(path, canonical_json(index))
