"""The store: results of stages, found by what they depend on, trusted only if their digests hold.

Layout below the root:

    results/<key>/result.json     the key's parts and the sha256 and size of every file
    results/<key>/stamps.json     size and modification time of every file when its digest was last checked
    results/<key>/timing.json     how long the stage took
    results/<key>/measured.json   what the stage measured in seconds; no part of the result's digest
    results/<key>/files/…         what the stage wrote
    history/<line>.json           the parts of each stage's last key, so that a rebuild can say what changed
    locks/…                       one lock file per key
    checkpoints/…                 where long trainings resume
    work/…                        results in the making; a rename publishes them

A result appears by one rename, so a killed process leaves nothing half-written. A damaged result is noticed and built
again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from enginery.errors import IntegrityError, StageError
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.files import (
    canonical_json,
    digest_json,
    files_below,
    pretty_json,
    replace_folder,
    sha256_file,
    sync_tree,
    write_durably,
)
from enginery.pipeline.store.keys import Key
from enginery.pipeline.store.locks import hold, hold_if_free

FORMAT = 1
"""Part of every key: raise it when the layout of results changes."""

MAX_NAMED = 4
"""A reason names this many changed parts and counts the rest."""

STAMPS = "stamps.json"
MEASURED = "measured.json"
"""A stage writes timings into this file; it is kept beside the result, whose digest must not depend on them."""


@dataclass(frozen=True)
class Result:
    """A stage's stored result. `digest` depends on the files' bytes alone, so equal results have equal digests."""

    stage: StageName
    key: Key
    folder: Path
    files: Mapping[str, str]
    reused: bool
    why: str
    seconds: float

    @property
    def digest(self) -> str:
        return digest_json(dict(self.files))

    def digest_of(self, folder: str) -> str:
        """The digest of the files below `folder` alone, for a stage that reads nothing else."""
        return digest_json({name: digest for name, digest in self.files.items() if name.startswith(f"{folder}/")})

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def measured(self) -> dict[str, Any]:
        """What the stage measured in seconds, or nothing."""
        path = self.folder.parent / MEASURED
        return json.loads(path.read_bytes()) if path.is_file() else {}

    def json(self, name: str) -> Any:
        return json.loads(self.path(name).read_bytes())

    def verify(self) -> None:
        """Read every file and compare its digest.

        Raises:
            IntegrityError: a file changed since it was stored, though its size and time of change did not.
        """
        for name, expected in self.files.items():
            if sha256_file(self.path(name)) != expected:
                # Without stamps the next lookup hashes everything, and replaces the result.
                (self.folder.parent / STAMPS).unlink(missing_ok=True)
                raise IntegrityError(f"{self.path(name)} changed since it was stored. Build again to replace it.")


class Store:
    """A folder of results that any number of processes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def beside(cls, output: Path) -> Store:
        """The store named by ENGINERY_STORE, or `.store` inside the output folder."""
        named = os.environ.get("ENGINERY_STORE")
        return cls(Path(named) if named else output / ".store")

    def obtain(self, stage: StageName, key: Key, line: str, run: Callable[[Path], None], events: Events) -> Result:
        """Return the stored result for `key`, or run the stage and store what it wrote.

        Args:
            stage: for messages.
            key: what the result depends on.
            line: names the recipe, so that "what changed" compares with the same recipe's last build.
            run: writes the result into the empty folder it is given.
            events: is told whether the stage ran, and why.
        """
        try:
            return self._obtain(stage, key, line, run, events)
        except OSError as error:
            if not self._is_ours(error):
                raise
            # A write that fails does not say where: passes keep graphs in the temporary folder, too.
            beside = "" if error.filename is not None else f", or to the temporary folder {tempfile.gettempdir()}"
            variable = "ENGINERY_STORE" if error.filename is not None else "ENGINERY_STORE or TMPDIR"
            raise StageError(
                f"{stage}: cannot write to the store at {self.root}{beside}: {error.strerror}. Free space there, or "
                f"set {variable} to another folder; then run the same command again: finished stages are kept."
            ) from error

    def _obtain(self, stage: StageName, key: Key, line: str, run: Callable[[Path], None], events: Events) -> Result:
        why = self._why(stage, key, line)
        with self.lock(key.digest, lambda: events.waiting(stage, "another process is building the same result")):
            found, damage = self._find(stage, key)
            if found is None:
                why = damage or why
                events.started(stage, why)
                found = self._build(stage, key, run, why)
                events.finished(stage, found.seconds)
            else:
                events.reused(stage, found.why)
            # Still under the lock: from here on `enginery store gc` sees that the result is used.
            self._remember(stage, key, line)
        return found

    def _is_ours(self, error: OSError) -> bool:
        """Whether an error of the operating system is about the store, and not about a file that a stage reads."""
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            return True
        return isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(self.root)

    def workdir(self, name: str) -> Path:
        """A folder for checkpoints of a long stage. What is in it speeds up and is never trusted as a result."""
        folder = self.root / "checkpoints" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self, name: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock `name` of this store (a context manager)."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return hold(folder / f"{name}.lock", on_wait)

    def _find(self, stage: StageName, key: Key) -> tuple[Result | None, str | None]:
        entry = self.root / "results" / key.digest
        if not entry.is_dir():
            return None, None
        try:
            document = _read_entry(entry, key)
            _check_files(entry, document["files"])
        except IntegrityError as error:
            return None, f"the stored result is damaged ({error})"
        files = {name: cast("str", facts["sha256"]) for name, facts in document["files"].items()}
        seconds = _seconds(entry)
        return Result(stage, key, entry / "files", files, reused=True, why="nothing changed", seconds=seconds), None

    def _build(self, stage: StageName, key: Key, run: Callable[[Path], None], why: str) -> Result:
        work = self.root / "work"
        work.mkdir(parents=True, exist_ok=True)
        self._sweep(work, key.digest)
        fresh = Path(tempfile.mkdtemp(dir=work, prefix=f"{key.digest}."))
        fresh.chmod(0o755)
        try:
            (fresh / "files").mkdir()
            begin = time.perf_counter()
            run(fresh / "files")
            seconds = time.perf_counter() - begin
            files = _seal(fresh, key, seconds)
            entry = self.root / "results" / key.digest
            replace_folder(fresh, entry)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return Result(stage, key, entry / "files", files, reused=False, why=why, seconds=seconds)

    def _sweep(self, work: Path, held: str) -> None:
        """Remove what processes that died left: folders of the key that we hold, and of keys that nobody holds."""
        for folder in work.iterdir():
            key = folder.name.partition(".")[0]
            if key == held:
                shutil.rmtree(folder)
                continue
            with hold_if_free(self.root / "locks" / f"{key}.lock") as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)

    def _history(self, line: str) -> Path:
        return self.root / "history" / f"{line}.json"

    def _why(self, stage: StageName, key: Key, line: str) -> str:
        previous = read_history(self._history(line)).get(str(stage))
        if previous is None:
            return "first build"
        return describe_change(previous, key.parts)

    def _remember(self, stage: StageName, key: Key, line: str) -> None:
        path = self._history(line)
        with self.lock(f"history-{line}", lambda: None):
            history = read_history(path)
            if history.get(str(stage)) == dict(key.parts):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, canonical_json({**history, str(stage): dict(key.parts)}))


def describe_change(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Say which parts of a key differ: "config.opset 20 → 21; tool.torch 2.13.0 → 2.13.1"."""
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if not changed:
        return "the stored result is gone"
    texts = [_one_change(name, before.get(name), after.get(name)) for name in changed[:MAX_NAMED]]
    more = len(changed) - MAX_NAMED
    return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")


def _one_change(name: str, before: str | None, after: str | None) -> str:
    kind, _, what = name.partition(".")
    if before is None:
        return f"{kind} {what} is new"
    if after is None:
        return f"{kind} {what} is gone"
    if kind in {"input", "code"}:
        return f"{kind} {what} changed"
    return f"{kind} {what} {before} → {after}"


def _seal(entry: Path, key: Key, seconds: float) -> dict[str, str]:
    """Write what makes a folder a result: digests, stamps and timing. Everything reaches the disk before the rename."""
    if (entry / "files" / MEASURED).is_file():
        (entry / "files" / MEASURED).rename(entry / MEASURED)
    files: dict[str, dict[str, Any]] = {}
    for path in files_below(entry / "files"):
        if path.is_symlink():
            raise StageError(f"{key.stage}: wrote a symbolic link, {path.name}; results hold plain files only.")
        files[path.relative_to(entry / "files").as_posix()] = {
            "sha256": sha256_file(path),
            "size": path.stat().st_size,
        }
    document = {"format": FORMAT, "stage": key.stage, "parts": dict(key.parts), "files": files}
    (entry / "result.json").write_text(pretty_json({**document, "seal": digest_json(document)}))
    (entry / "timing.json").write_text(pretty_json({"seconds": seconds}))
    _write_stamps(entry, list(files))
    sync_tree(entry)
    return {name: facts["sha256"] for name, facts in files.items()}


def read_entry(entry: Path) -> dict[str, Any]:
    """What a stored result says of itself: its stage, the parts of its key, and its files.

    Raises:
        IntegrityError: it cannot be read, was changed, or is of another format.
    """
    try:
        document = json.loads((entry / "result.json").read_bytes())
        seal = document.pop("seal")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"result.json cannot be read: {error}") from error
    if seal != digest_json(document):
        raise IntegrityError("result.json was changed")
    if document["format"] != FORMAT:
        raise IntegrityError(f"result.json has format {document['format']}; expected {FORMAT}")
    return document


def _read_entry(entry: Path, key: Key) -> dict[str, Any]:
    document = read_entry(entry)
    if document["parts"] != dict(key.parts):
        raise IntegrityError("result.json belongs to another key")
    return document


def _check_files(entry: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that exactly the recorded files are there, unchanged.

    A file whose size and modification time are as they were when its digest was last computed is not read again:
    that is what makes a second build take no time. Whoever is about to consume a result calls `Result.verify`.
    """
    folder = entry / "files"
    present = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    if present != set(files):
        raise IntegrityError(f"files differ: {', '.join(sorted(present ^ set(files)))}")
    stamps = _read_stamps(entry)
    renew = False
    for name, facts in files.items():
        path = folder / name
        if stamps.get(name) == _stamp(path):
            continue
        if path.is_symlink() or path.stat().st_size != facts["size"] or sha256_file(path) != facts["sha256"]:
            raise IntegrityError(f"{name} was changed")
        renew = True
    if renew:
        _write_stamps(entry, list(files))


def _stamp(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns, status.st_mode]


def _read_stamps(entry: Path) -> dict[str, list[int]]:
    try:
        return cast("dict[str, list[int]]", json.loads((entry / STAMPS).read_bytes()))
    except (OSError, ValueError):
        return {}


def _write_stamps(entry: Path, names: list[str]) -> None:
    write_durably(entry / "stamps.json", canonical_json({name: _stamp(entry / "files" / name) for name in names}))


def read_history(path: Path) -> dict[str, dict[str, str]]:
    """The parts of the keys that a recipe's last builds used, by stage; empty where there is no history."""
    try:
        return cast("dict[str, dict[str, str]]", json.loads(path.read_bytes()))
    except (OSError, ValueError):
        # Only "why" is lost; the next build writes it anew.
        return {}


def _seconds(entry: Path) -> float:
    try:
        return float(json.loads((entry / "timing.json").read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
