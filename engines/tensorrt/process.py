"""Starts the process that builds a plan (`builder.py`) and reads its answer."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from enginery.engines.tensorrt import builder
from enginery.engines.tensorrt.log import BuildLog, Problem, parser_problems
from enginery.engines.tensorrt.options import Settings
from enginery.errors import EngineError

BUILDER: Final = (sys.executable, "-I", "-S", builder.__file__)
"""Without `site`: it costs as much as the rest of Python's start, and the search path is handed over."""

MEMORY: Final = "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864:glibc.malloc.trim_threshold=1073741824"
"""How the process asks the system for memory, in GNU libc's words: seldom, much at a time, in large pages. Building
touches some hundred megabytes once, and a quarter of its time went into 37,000 page faults; 5,000 are left."""

_ADDR_NO_RANDOMIZE: Final = 0x0040000
_QUERY: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Request:
    """What to build. `shapes` gives one mapping a profile, from an input's name to its [min, opt, max] shapes."""

    model: str
    inputs: dict[str, int]
    """Names and ranks, to compare with the network's."""
    outputs: dict[str, int]
    shapes: list[dict[str, list[list[int]]]]
    settings: Settings
    timing_cache: str | None = None


@dataclass(frozen=True)
class Answer:
    """What the builder says: rows of the log (severity, message), and why there is no plan, where there is none."""

    log: tuple[tuple[str, str], ...]
    error: str | None
    problems: tuple[Problem, ...]


class PlanBuilder:
    """A process that has begun to import TensorRT, in the model's `folder`, and waits for what to build.

    It is a context manager: leaving it ends the process. Until `build` is called no model was read.
    """

    def __init__(self, module: str, folder: Path, plan: Path, *, device: int = 0) -> None:
        self._plan = plan
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 (an entry may be empty)
        with plan.open("wb") as file, _fixed_addresses():
            self._process = subprocess.Popen(
                [*BUILDER, module, str(file.fileno()), json.dumps(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=_environment(device),
                pass_fds=[file.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:
            pass

    def build(self, request: Request) -> Answer:
        """Build and write the plan.

        Raises:
            EngineError: the process crashed, or the plan was not written whole.
        """
        out, err = self._process.communicate(json.dumps(dataclasses.asdict(request)).encode())
        said = err.decode(errors="replace").strip()
        if self._process.returncode != 0:
            raise EngineError(f"the builder {_ending(self._process.returncode)}. It said: {said or 'nothing'}")
        answer = json.loads(out)
        if answer["error"] is None and self._plan.stat().st_size != answer["size"]:
            raise EngineError("the plan was not written whole; is the disk full?")
        log = BuildLog([(level, message) for level, message in answer["log"]])
        problems = parser_problems(answer["parser"]) or (log.problems() if answer["refused"] else [])
        rows = (*log.rows, *(("STDERR", line) for line in said.splitlines()))
        return Answer(rows, answer["error"], tuple(problems))


def _environment(device: int) -> dict[str, str]:
    result = {"GLIBC_TUNABLES": MEMORY, **os.environ}
    if device:
        # The process sees the GPU that was asked for alone; CUDA takes the first otherwise.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        result["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device] if visible else str(device)
    return result


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
