"""What a measurement depends on besides software: the processor, and what else keeps it busy."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Final

LOOK_SECONDS: Final = 0.3


@cache
def processor() -> str:
    """The processor's model name; two machines with equal names give comparable results."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()} {next(named, 'unknown')}"


def cores_taken(seconds: float = LOOK_SECONDS) -> float:
    """How many cores other work keeps busy while this process sleeps for `seconds`; 0 where nothing tells."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None:
        return 0.0
    busy, whole = (now - then for now, then in zip(after, before, strict=True))
    return (os.cpu_count() or 1) * busy / max(whole, 1)


def _ticks() -> tuple[int, int] | None:
    """Ticks of all cores since the system began, those that were busy and all of them (Linux, proc(5))."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    user, nice, system, idle, waiting, *others = (int(part) for part in first.split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting
