"""Bundles: the folder that a build delivers, opened and verified without torch and without onnx.

`SHA256SUMS` lists every file (`sha256sum -c SHA256SUMS` agrees with us); the manifest lists those that are equal in
every build of the same recipe. The order of verification is: the exact set of files, digests, and only then is
anything parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.engines.base import Artifact, BuildSpec
from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.files import files_below, sha256_file, write_durably
from enginery.pipeline.manifest import FILE_NAME, FileRecord, Manifest, read_manifest

SUMS = "SHA256SUMS"
REFUSED_REPORT = "report.json"
MAX_SUMS_BYTES = 1 << 22
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
        _must_be_bundle(path)
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
    """What was verified: the number of files and bytes, and the digest of the whole (that of SHA256SUMS)."""

    files: int
    bytes: int
    digest: str
    manifest: Manifest


def verify_bundle(path: Path, on_bytes: Callable[[int], Any] = lambda _: None) -> Verified:
    """Check every file of a bundle.

    Args:
        path: the bundle.
        on_bytes: is told the size of each file after it was checked.

    Raises:
        UsageError: there is no bundle at `path`.
        IntegrityError: a file was changed, added, removed, or is no plain file; every fault is named.
    """
    _must_be_bundle(path)
    sums = _read_sums(path / SUMS)
    _check_file_set(path, set(sums) | {SUMS})
    changed = []
    total = 0
    for name, expected in sums.items():
        file = path / name
        if sha256_file(file) != expected:
            changed.append(name)
        size = file.stat().st_size
        total += size
        on_bytes(size)
    if changed:
        raise IntegrityError(f"{path}: changed since the build: {', '.join(changed)}. Do not use this bundle.")
    manifest = read_manifest(path / FILE_NAME)
    _check_manifest(path, manifest, sums)
    return Verified(len(sums) + 1, total, sha256_file(path / SUMS), manifest)


def _must_be_bundle(path: Path) -> None:
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
        raise IntegrityError(f"{path}: {'; '.join(faults)}. Do not use this bundle.")


def _check_manifest(path: Path, manifest: Manifest, sums: dict[str, str]) -> None:
    """The manifest and SHA256SUMS must tell the same story."""
    listed = {name: record.sha256 for name, record in manifest.files.items()}
    free = {FILE_NAME, *manifest.measurements}
    expected = {name: digest for name, digest in sums.items() if name not in free}
    if listed != expected:
        names = sorted({name for name in listed | expected if listed.get(name) != expected.get(name)})
        raise IntegrityError(f"{path}: {FILE_NAME} and {SUMS} disagree about {', '.join(names)}.")
    if missing := sorted(set(manifest.measurements) - set(sums)):
        raise IntegrityError(f"{path}: {SUMS} does not list {', '.join(missing)}.")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of `folder`."""
    names = [path.relative_to(folder).as_posix() for path in files_below(folder) if path.name != SUMS]
    text = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in names)
    write_durably(folder / SUMS, text.encode())


def file_records(folder: Path, names: list[str]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        for name in sorted(names)
    }
