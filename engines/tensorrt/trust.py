"""Which plans this user may deserialize: those built here, and those whose signature was verified.

A plan contains code that the GPU and the host execute, so loading a stranger's plan is running a stranger's program.
Nothing inside a bundle can vouch for it, since who changes the plan also changes its manifest. What vouches is a
record outside the bundle: an empty file per accepted plan, named by the plan's sha256, in
`$XDG_STATE_HOME/enginery/plans` (by default `~/.local/state/enginery/plans`).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from enginery.errors import UntrustedSourceError


def accept(plan: Path) -> str:
    """Record a plan as trusted and return its sha256. Call it after a build, or after verifying a signature."""
    digest = _digest(plan)
    record = records() / digest
    record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    record.touch(mode=0o600)
    return digest


def require(plan: Path) -> None:
    """Check that a plan was accepted before.

    Raises:
        UntrustedSourceError: it was not, or it was changed since.
    """
    digest = _digest(plan)
    if not (records() / digest).is_file():
        raise UntrustedSourceError(
            f"{plan.name} (sha256 {digest[:12]}…) was not built by this user on this machine, and no signature of it "
            "was verified. A plan contains code, so it is not loaded. Build it here, or verify its bundle's signature."
        )


def records() -> Path:
    """The folder of the records."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "enginery" / "plans"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
