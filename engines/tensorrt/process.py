"""Starts the process that builds a plan (`builder.py`) and reads its answer."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enginery.engines.tensorrt.builder import Request
from enginery.engines.tensorrt.log import Problem
from enginery.errors import EngineError

BUILDER: Final = (sys.executable, "-P", "-m", "enginery.engines.tensorrt.builder")

_ADDR_NO_RANDOMIZE: Final = 0x0040000
_QUERY: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Answer:
    """What the builder says: rows of the log (severity, message), and why there is no plan, where there is none."""

    log: tuple[tuple[str, str], ...]
    error: str | None
    problems: tuple[Problem, ...]


def build_plan(request: Request, folder: Path, plan: Path) -> Answer:
    """Build in a process whose current folder is `folder`, the model's, and write the plan to the file `plan`.

    Raises:
        EngineError: the process crashed, or the plan was not written whole.
    """
    with plan.open("wb") as file, _fixed_addresses():
        process = subprocess.Popen(
            [*BUILDER, str(file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            pass_fds=[file.fileno()],
        )
    with process:
        out, err = process.communicate(json.dumps(dataclasses.asdict(request)).encode())
    said = err.decode(errors="replace").strip()
    if process.returncode != 0:
        raise EngineError(f"the builder {_ending(process.returncode)}. It said: {said or 'nothing'}")
    answer = json.loads(out)
    if answer["error"] is None and plan.stat().st_size != answer["size"]:
        raise EngineError("the plan was not written whole; is the disk full?")
    rows = [(level, message) for level, message in answer["log"]]
    rows += [("STDERR", line) for line in said.splitlines()]
    return Answer(tuple(rows), answer["error"], tuple(Problem(*problem) for problem in answer["problems"]))


@contextlib.contextmanager
def _fixed_addresses() -> Generator[None]:
    """Let this thread's next child process run without address randomization, where the system allows it.

    Docker's default profile does not; then plans of several dynamic dimensions may differ in a few bytes.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.personality(_QUERY)
    changed = before >= 0 and libc.personality(before | _ADDR_NO_RANDOMIZE) >= 0
    try:
        yield
    finally:
        if changed:
            libc.personality(before)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
