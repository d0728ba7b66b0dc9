"""Files that are whole or absent: digests, durable writes, renames that happen at once or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling per value: sorted keys, no spaces, UTF-8, and no NaN, which JSON does not have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pretty_json(value: Any) -> str:
    """JSON for people, with a fixed key order, so that equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file by way of a temporary one and a rename: at any moment `path` is the old file or the new one."""
    write_together(path.parent, {path.name: data})


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write several files of a folder: an error, such as a full disk, leaves every one of them as it was.

    Each is written beside its place first; only when all are on the disk are they renamed, in the order given. A
    process that is killed leaves each the old one or the new one, and perhaps files called `.NAME.XXXXXXXX` beside
    them. Files get the mode that the umask allows.
    """
    written: dict[str, Path] = {}
    try:
        for name, data in contents.items():
            written[name] = folder / f".{name}.{secrets.token_hex(4)}"
            with written[name].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name, path in written.items():
            path.replace(folder / name)
    except BaseException as error:
        for path in written.values():
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say which
            error.filename = str(folder)
        raise
    sync_folder(folder)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`, sorted by path; symbolic links are yielded, never followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in sorted([*names, *linked]):
            yield Path(root) / name


def sync_tree(folder: Path) -> None:
    """Force a folder's files to the disk, so that a rename after this never publishes empty files."""
    for path in files_below(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, which may exist. `new` is on the same file system.

    A process that is killed in between leaves `target` absent, never mixed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() or target.is_symlink():
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
        target.rename(old / "bundle")
        new.rename(target)
        shutil.rmtree(old)
    else:
        new.rename(target)
    sync_folder(target.parent)
