"""Bundles: the folder that a build delivers, opened and verified without torch and without onnx.

`SHA256SUMS` lists every file (`sha256sum -c SHA256SUMS` agrees with us); the manifest lists those that are equal in
every build of the same recipe. The order of verification is: the signature, where one is demanded; the exact set of
files; digests; and only then is anything parsed. `SHA256SUMS` itself vouches for an unsigned bundle, so it is read
first there, line by line and strictly.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.engines.base import Artifact, BuildSpec
from enginery.engines.tensorrt import trust
from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle.manifest import FILE_NAME, FileRecord, Manifest, read_manifest
from enginery.pipeline.bundle.signature import SIGNATURE, verify_signature
from enginery.pipeline.files import files_below, sha256_file, write_durably

SUMS = "SHA256SUMS"
REFUSED_REPORT = "report.json"
PROVENANCE = "provenance.intoto.jsonl"
RELEASE_FILES = frozenset({SIGNATURE, PROVENANCE})
"""What `enginery sign` adds. The manifest cannot list it, since it describes and signs the manifest."""

KEY_VARIABLE = "ENGINERY_PUBLIC_KEY"
"""Names a public key: every bundle that is verified in this environment must be signed by its owner."""

MAX_SUMS_BYTES = 1 << 22
_DO_NOT_USE = "Do not use this bundle."
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `open` reads the manifest only; `verify_bundle` checks the files."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open the bundle at `path`.

        Raises:
            UsageError: there is no bundle at `path`.
            IntegrityError: the manifest cannot be read.
        """
        must_be_bundle(path)
        return cls(path, read_manifest(path / FILE_NAME))

    @property
    def artifact(self) -> Artifact:
        engine = self.manifest.engine
        return Artifact(self.path / engine.folder, engine.entry, engine.options, engine.facts)

    @property
    def spec(self) -> BuildSpec:
        manifest = self.manifest
        return BuildSpec(
            tuple(signature.spec for signature in manifest.inputs),
            tuple(signature.spec for signature in manifest.outputs),
            {name: dim.range for name, dim in manifest.dims.items()},
        )


@dataclass(frozen=True)
class Verified:
    """What was verified.

    `digest` names this very bundle (the sha256 of SHA256SUMS); `manifest_digest` is the same for every build of the
    same recipe on one machine. `public_key` is the key that verified the signature, or None when none was demanded.
    """

    files: int
    bytes: int
    digest: str
    manifest_digest: str
    public_key: Path | None
    manifest: Manifest
    sums: Mapping[str, str]

    @property
    def signed(self) -> bool:
        """Whether the bundle carries a signature, verified or not."""
        return SIGNATURE in self.sums


def verify_bundle(
    path: Path,
    on_bytes: Callable[[int], Any] = lambda _: None,
    *,
    public_key: Path | None = None,
    before_signing: bool = False,
) -> Verified:
    """Check every file of a bundle.

    Args:
        path: the bundle.
        on_bytes: is told the size of each file after it was checked.
        public_key: demand a signature that this key (a PEM file) verifies; the environment variable
            ENGINERY_PUBLIC_KEY demands it as well.
        before_signing: do not heed a recipe that demands a signature: the bundle is checked on its way to being signed.

    Raises:
        UsageError: there is no bundle at `path`, or the key cannot be read.
        MissingDependencyError: a signature is demanded and the extra `sign` is absent.
        IntegrityError: a file was changed, added, removed, or is no plain file (every fault is named); the signature is
            missing or does not hold; or the bundle's recipe demands a signature and no key was given.
    """
    must_be_bundle(path)
    if public_key is None and (named := os.environ.get(KEY_VARIABLE)):
        public_key = Path(named)
    if public_key is not None:
        signed = _read_verified(path, _verify_signed(path, public_key), public_key)
        _vouch(path, signed.manifest)
        return signed
    verified = verify_digests(path, on_bytes)
    if verified.manifest.recipe.get("signature") == "required" and not before_signing:
        raise IntegrityError(
            f"{path}: its recipe demands a signature. Give the public key of its author: --public-key KEY, or "
            f"{KEY_VARIABLE}=KEY."
        )
    return verified


def verify_digests(path: Path, on_bytes: Callable[[int], Any] = lambda _: None) -> Verified:
    """Check every file of a bundle, whoever made it: for a bundle that was just built here.

    Raises:
        UsageError: there is no bundle at `path`.
        IntegrityError: a file was changed, added, removed, or is no plain file.
    """
    must_be_bundle(path)
    sums = _read_sums(path / SUMS)
    _check_file_set(path, {*sums, SUMS})
    _check_digests(path, sums, on_bytes)
    return _read_verified(path, sums, None)


def verify_to_sign(path: Path) -> Verified:
    """Check every file of a bundle but those that signing writes anew, which may be absent, damaged or stale.

    What a signing that was killed left beside them is swept away. The caller holds the folder.

    Raises:
        UsageError: there is no bundle at `path`.
        IntegrityError: any other file was changed, added or removed.
    """
    must_be_bundle(path)
    for name in (*RELEASE_FILES, SUMS):
        for stale in path.glob(f".{name}.????????"):
            if stale.is_file():
                stale.unlink()
    sums = {name: digest for name, digest in _read_sums(path / SUMS).items() if name not in RELEASE_FILES}
    present = {name for name in RELEASE_FILES if (path / name).exists()}
    _check_file_set(path, {*sums, SUMS, *present})
    _check_digests(path, sums, lambda _: None)
    return _read_verified(path, sums, None)


def _read_verified(path: Path, sums: Mapping[str, str], public_key: Path | None) -> Verified:
    manifest = read_manifest(path / FILE_NAME)
    _check_manifest(path, manifest, sums)
    size = sum((path / name).stat().st_size for name in sums)
    return Verified(len(sums) + 1, size, sha256_file(path / SUMS), sums[FILE_NAME], public_key, manifest, sums)


def _vouch(path: Path, manifest: Manifest) -> None:
    """A TensorRT plan is code: an engine loads those that were built here, and those that a signature vouches for."""
    if manifest.target.startswith("tensorrt"):
        # With a read-only home nothing is recorded, and loading the plan is refused with what to do.
        with contextlib.suppress(OSError):
            trust.accept(path / manifest.engine.folder / manifest.engine.entry)


def _verify_signed(path: Path, public_key: Path) -> dict[str, str]:
    """Verify what the signature names, then that SHA256SUMS says the same; return its entries."""
    signed = verify_signature(path, public_key, lambda names: _check_file_set(path, {*names, SUMS, SIGNATURE}))
    sums = _read_sums(path / SUMS)
    expected = {**signed, SIGNATURE: sha256_file(path / SIGNATURE)}
    if sums != expected:
        names = sorted(name for name in sums | expected if sums.get(name) != expected.get(name))
        raise IntegrityError(f"{path}: {SUMS} and the signature disagree about {', '.join(names)}. {_DO_NOT_USE}")
    return sums


def _check_digests(path: Path, sums: Mapping[str, str], on_bytes: Callable[[int], Any]) -> None:
    changed: list[str] = []
    for name, expected in sums.items():
        if sha256_file(path / name) != expected:
            changed.append(name)
        on_bytes((path / name).stat().st_size)
    if changed:
        raise IntegrityError(f"{path}: changed since the build: {', '.join(changed)}. {_DO_NOT_USE}")


def must_be_outside(path: Path, bundle: Path) -> None:
    """Refuse to write into a bundle: with one file more it would no longer verify.

    Raises:
        UsageError: `path` is the bundle, or lies in it.
    """
    if path.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(
            f"{path} lies inside the bundle {bundle}, which takes no other files. Name a place outside it."
        )


def must_be_bundle(path: Path) -> None:
    """Raise UsageError where no bundle is at `path`."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder. Name the bundle, such as build/minilm/onnxruntime-cpu-int8.")
    if not (path / FILE_NAME).is_file():
        if (path / REFUSED_REPORT).is_file():
            raise UsageError(f"{path} holds the report of a refused build and no bundle. See {path / REFUSED_REPORT}.")
        raise UsageError(f"{path} has no {FILE_NAME}: it is not a bundle.")


def _read_sums(path: Path) -> dict[str, str]:
    """Parse SHA256SUMS strictly: it is read before anything vouches for it."""
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path} is missing: nothing says what this bundle should hold.")
    if path.stat().st_size > MAX_SUMS_BYTES:
        raise IntegrityError(f"{path} is larger than {MAX_SUMS_BYTES} bytes.")
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is not text: it was changed.") from error
    sums: dict[str, str] = {}
    if lines.pop() != "":
        raise IntegrityError(f"{path} does not end with a line break: it was cut.")
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_plain(match[2]) or match[2] in sums:
            raise IntegrityError(f"{path}, line {number}: expected `<sha256>  <path>`, once per file; it was changed.")
        sums[match[2]] = match[1]
    if FILE_NAME not in sums:
        raise IntegrityError(f"{path} does not list {FILE_NAME}.")
    return sums


def _is_plain(name: str) -> bool:
    return not name.startswith("/") and all(part not in {"", ".", ".."} for part in name.split("/"))


def _check_file_set(path: Path, expected: set[str]) -> None:
    faults: list[str] = []
    present: set[str] = set()
    for file in files_below(path):
        name = file.relative_to(path).as_posix()
        present.add(name)
        if file.is_symlink():
            faults.append(f"{name} is a symbolic link")
        elif not file.is_file():
            faults.append(f"{name} is no plain file")
        elif file.stat().st_nlink > 1:
            faults.append(f"{name} is a hard link (its content can be changed from elsewhere)")
    faults += [f"{name} is missing" for name in sorted(expected - present)]
    faults += [f"{name} is not part of the bundle" for name in sorted(present - expected)]
    if faults:
        raise IntegrityError(f"{path}: {'; '.join(faults)}. {_DO_NOT_USE}")


def _check_manifest(path: Path, manifest: Manifest, sums: Mapping[str, str]) -> None:
    """The manifest and SHA256SUMS must tell the same story, and what is opened must be among the files they tell of."""
    listed = {name: record.sha256 for name, record in manifest.files.items()}
    free = {FILE_NAME, *RELEASE_FILES, *manifest.measurements}
    expected = {name: digest for name, digest in sums.items() if name not in free}
    if listed != expected:
        names = sorted({name for name in listed | expected if listed.get(name) != expected.get(name)})
        raise IntegrityError(f"{path}: {FILE_NAME} and {SUMS} disagree about {', '.join(names)}.")
    if missing := sorted(set(manifest.measurements) - set(sums)):
        raise IntegrityError(f"{path}: {SUMS} does not list {', '.join(missing)}.")
    if strange := sorted(set(manifest.used_files) - set(listed)):
        raise IntegrityError(
            f"{path}: {FILE_NAME} uses {', '.join(strange)}, which is no file that it vouches for. {_DO_NOT_USE}"
        )


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of `folder`."""
    names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    text = sums_text({name: sha256_file(folder / name) for name in names if name != SUMS})
    write_durably(folder / SUMS, text.encode())


def sums_text(sums: Mapping[str, str]) -> str:
    """The content of SHA256SUMS for digests that the caller has just computed."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def file_records(folder: Path, names: list[str]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        for name in sorted(names)
    }
