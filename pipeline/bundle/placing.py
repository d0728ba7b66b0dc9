"""Puts a finished folder in its place: whole and at once."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from enginery.errors import StageError
from enginery.pipeline.files import replace_folder, sync_tree

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})


@contextmanager
def placing(place: Path) -> Generator[Path]:
    """Make a folder that takes the place `place` when the block ends, and vanishes when it raises.

    Args:
        place: where the folder is to stand; whatever stands there is replaced by one rename, and what a killed build
            left beside it is swept away. The caller holds a lock on the place.

    Raises:
        StageError: there is no room for it.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("new", "old"):
            for stale in place.parent.glob(f".{place.name}.{kind}.*"):
                shutil.rmtree(stale)
        fresh = place.parent / f".{place.name}.new.{secrets.token_hex(4)}"
        fresh.mkdir()  # with the mode that the umask allows, which mkdtemp ignores
        try:
            yield fresh
            sync_tree(fresh)
            replace_folder(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StageError(
            f"package: cannot write {place}: {error.strerror}. Free space there or choose another folder, then run "
            "the same command again: finished stages are kept."
        ) from error
