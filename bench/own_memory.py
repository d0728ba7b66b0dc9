"""The memory of this program. It imports nothing, since workers in the peers' environments read theirs here, too."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """The peak of this program alone; what `getrusage` says begins with the memory of the program that started it."""
    return _status_mib("VmHWM")


def resident_mib() -> float:
    """What it holds now."""
    return _status_mib("VmRSS")


def forget_peak() -> None:
    """The peak begins anew at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_mib(entry: str) -> float:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split(f"{entry}:")[1].split()[0]) / 1024
