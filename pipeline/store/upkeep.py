"""Upkeep of a store: what it holds, whether it is whole, and what no build needs any more.

A build that runs meanwhile is not disturbed: an entry is removed under its lock and by one rename, and what the last
build of any recipe used is never removed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.files import files_below, sha256_file
from enginery.pipeline.store.keys import Key
from enginery.pipeline.store.results import Store, read_entry, read_history

DAY: Final = 86_400.0


@dataclass(frozen=True)
class Entry:
    """A stored result. `current` when the last build of some recipe used it; `age` in seconds since it was stored."""

    key: str
    stage: str
    bytes: int
    age: float
    current: bool

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class _BusyError(Exception):
    """Another process holds an entry's lock."""


def entries(store: Store) -> tuple[Entry, ...]:
    """Every stored result, the oldest first.

    Raises:
        UsageError: there is no store.
    """
    results = _results(store)
    current = _current(store)
    now = time.time()
    found = [
        Entry(
            key=folder.name,
            stage=_stage(folder),
            bytes=sum(path.lstat().st_size for path in files_below(folder)),
            age=max(0.0, now - folder.stat().st_mtime),
            current=folder.name in current,
        )
        for folder in results
    ]
    return tuple(sorted(found, key=lambda entry: (-entry.age, entry.key)))


def verify(store: Store) -> Iterator[tuple[str, str | None]]:
    """Read every file of every result; yield each key with what is wrong, or None. A damaged result is built again.

    Raises:
        UsageError: there is no store.
    """
    for folder in _results(store):
        yield folder.name, _damage(folder)


def collect(store: Store, keep_days: float) -> tuple[Entry, ...]:
    """Remove every result that is older than `keep_days` and that no recipe's last build used; return them.

    What a killed process left unfinished goes as well, whatever its age. Results in the making are left alone.

    Raises:
        UsageError: there is no store.
    """
    old = [entry for entry in entries(store) if not entry.current and entry.age >= keep_days * DAY]
    removed = [entry for entry in old if _remove(store, entry.key)]
    for folder in _unfinished(store):
        _remove_unfinished(store, folder)
    return tuple(removed)


def _results(store: Store) -> list[Path]:
    folder = store.root / "results"
    if not folder.is_dir():
        raise UsageError(f"There is no store at {store.root}. Name the folder that builds go to: --output FOLDER.")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _current(store: Store) -> set[str]:
    """The keys that the last build of each recipe used."""
    history = store.root / "history"
    return {
        Key(stage.partition(" (")[0], parts).digest
        for path in (history.glob("*.json") if history.is_dir() else ())
        for stage, parts in read_history(path).items()
    }


def _stage(folder: Path) -> str:
    try:
        return str(json.loads((folder / "result.json").read_bytes())["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _damage(folder: Path) -> str | None:
    try:
        document = read_entry(folder)
        present = {path.relative_to(folder / "files").as_posix() for path in files_below(folder / "files")}
        if present != set(document["files"]):
            return f"files differ: {', '.join(sorted(present ^ set(document['files'])))}"
        for name, facts in document["files"].items():
            if sha256_file(folder / "files" / name) != facts["sha256"]:
                return f"{name} was changed"
    except (IntegrityError, OSError) as error:
        return str(error)
    return None


def _busy() -> None:
    raise _BusyError


def _remove(store: Store, key: str) -> bool:
    """Remove an entry unless a build holds it or has just begun to use it. After the rename nobody finds it."""
    try:
        with store.lock(key, _busy):
            if key in _current(store):
                return False
            grave = store.root / "work" / f"{key}.removed"
            grave.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(grave, ignore_errors=True)
            (store.root / "results" / key).rename(grave)
            shutil.rmtree(grave)
    except _BusyError:
        return False
    return True


def _unfinished(store: Store) -> list[Path]:
    """Results in the making, `KEY.XXXX`, and those that were being replaced, `.KEY.old.XXXX`."""
    work, results = store.root / "work", store.root / "results"
    replaced = (path for path in results.iterdir() if path.name.startswith("."))
    return sorted([*(work.iterdir() if work.is_dir() else ()), *replaced])


def _remove_unfinished(store: Store, folder: Path) -> None:
    key = folder.name.removeprefix(".").partition(".")[0]
    try:
        with store.lock(key, _busy):
            shutil.rmtree(folder, ignore_errors=True)
    except _BusyError:
        return
