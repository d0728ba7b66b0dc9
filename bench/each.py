"""What `zoo.py` and `zoo_tensorrt.py` share: their command line, and a process of its own for each architecture.

The processes are forked from a server that has imported what all of them need, which takes longer than most of them.

A result is a JSON file in the folder `--results`, so that a run that was stopped goes on where it was, and a table is
printed from what is there. A row says which sources it was made with; the table counts those made with others.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from measure import options

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE.parent / "build" / "zoo"
QUICK: Final = ("bert", "llama", "resnet", "mobilenetv3")
PRELOADED: Final = (
    "zoo_models", "torch.onnx", "onnxscript", "transformers", "timm", "onnxruntime", "onnx", "onnx_graphsurgeon",
    "enginery.passes.sequence", "enginery.engines.onnxruntime",
)  # fmt: skip
TIMED_OUT: Final = "timed out"
DIED: Final = "died"

Row = dict[str, Any]
Examine = Callable[[str, Path], Row]


def command_line(description: str, *, limit: int, **flags: str) -> argparse.ArgumentParser:
    """The parser, with further `flags` and their help."""
    parser = options(description)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these architectures")
    parser.add_argument(
        "--limit", type=int, default=limit, metavar="SECONDS", help="time of each (default %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept (default build/zoo)")
    parser.add_argument("--minutes", type=float, help="start none after so many minutes; the next call goes on")
    parser.add_argument("--again", action="store_true", help="examine again what has a result")
    parser.add_argument("--table", action="store_true", help="examine none, print the table of what is there")
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with `end`: when no further architecture is begun."""
    given = parser.parse_args()
    given.end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    return given


def names_of(given: argparse.Namespace, everything: Sequence[str]) -> Sequence[str]:
    """The architectures that were asked for."""
    if unknown := sorted(set(given.only or ()) - set(everything)):
        raise SystemExit(f"The zoo has no {unknown[0]!r}; it has: {', '.join(everything)}.")
    return given.only or (QUICK if given.quick else everything)


@dataclass(frozen=True)
class Study:
    """One kind of result: `examine(name, results)` makes each of them."""

    kind: str
    examine: Examine

    def rows(
        self, given: argparse.Namespace, names: Sequence[str], *, again: bool = False, make: bool = True
    ) -> Iterator[Row]:
        """The row of each architecture, from its file or from a process.

        Where nothing is to be made, or time is up, those without a file are left out.
        """
        folder: Path = given.results / self.kind
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = folder / f"{name}.json"
            known = json.loads(file.read_text()) if file.is_file() else None
            if make and not given.table and time.monotonic() < given.end and (known is None or again or given.again):
                known = self.run(name, given) | {"sources": sources()}
                _keep(file, known)
                shown = {key: value for key, value in known.items() if key not in ("name", "sources")}
                print(f"{self.kind} {name}: {str(shown)[:300]}", file=sys.stderr, flush=True)
            if known is not None:
                yield known

    def run(self, name: str, given: argparse.Namespace) -> Row:
        """One architecture in a process of its own, which is ended with all its children when its time is up."""
        with tempfile.TemporaryDirectory() as text:
            row, said = Path(text) / "row.json", Path(text) / "said"
            process = _server().Process(target=_child, args=(self.examine, name, given.results, row, said))
            process.start()
            process.join(given.limit)
            if process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid or 0, signal.SIGKILL)
                process.join()
                return {"name": name, "state": TIMED_OUT, "reason": f"over {given.limit} s"}
            if not row.is_file():
                last = (said.read_text(errors="replace").strip().splitlines() or ["no message"])[-1][:300]
                return {"name": name, "state": DIED, "reason": f"exit code {process.exitcode}: {last}"}
            return {"name": name} | json.loads(row.read_text())


@functools.cache
def _server() -> ForkServerContext:
    # The server looks for modules where a fresh interpreter does.
    os.environ["PYTHONPATH"] = str(HERE)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _child(examine: Examine, name: str, results: Path, row: Path, said: Path) -> None:
    os.setsid()
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        _keep(row, examine(name, results))


def sources() -> str:
    """What of ours decides a row, as a digest."""
    digest = hashlib.sha256()
    for room in ("passes", "engines"):
        for file in sorted((HERE.parent / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def print_sources(rows: Sequence[Row]) -> None:
    """Say how many rows other sources made."""
    if old := sum(row["sources"] != sources() for row in rows):
        print(f"\n{old} of {len(rows)} rows were made with other sources than these; `--again` makes them anew.")


def first_line(error: BaseException | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:400]


def _keep(file: Path, row: Row) -> None:
    whole = file.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps(row, indent=1) + "\n")
    whole.replace(file)
