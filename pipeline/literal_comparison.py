"""How far two ONNX files are apart when ONNX Runtime runs them literally, found out in a process of its own.

ONNX Runtime ends its process on some files that its checker takes, such as a QLinearSigmoid with an empty zero point;
what a user asked for must not end with it. Run as a script with two files it prints what `compare_files` reads.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enginery.errors import EngineError, EngineryError

if TYPE_CHECKING:
    from enginery.passes.difference import Difference

SIZES: Final = (1, 3)
"""Sizes of every dynamic dimension at which the two are compared."""

LAST_WORDS: Final = 100
_RAN: Final = "the first file ran"


def compare_files(given: Path, other: Path) -> tuple[Difference, ...]:
    """The largest error of each output of `other` against `given`, on seeded random inputs at the sizes in `SIZES`.

    Raises:
        EngineError: one of the two cannot be run, or they cannot be compared.
    """
    from enginery.passes.difference import Difference

    command = [sys.executable, "-P", "-m", "enginery.pipeline.literal_comparison", str(given), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        culprit = other if _RAN in done.stdout else given
        code = done.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise EngineError(f"ONNX Runtime {how} on {culprit.name}. Its last words: {done.stderr.strip()[-LAST_WORDS:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["error"] is not None:
        raise EngineError(answer["error"])
    return tuple(Difference(**each) for each in answer["differences"])


def differences(given: Path, other: Path) -> tuple[Difference, ...]:
    """What `compare_files` says, in this process."""
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.difference import worst_differences
    from enginery.pipeline.onnx_feeds import dynamic_dims, random_feeds

    feeds = random_feeds(given, [dict.fromkeys(dynamic_dims(given), size) for size in SIZES])
    run = open_model(given, optimize=False)
    expected = [run(feed) for feed in feeds]
    click.echo(_RAN)
    run = open_model(other, optimize=False)
    return worst_differences((answer, run(feed)) for answer, feed in zip(expected, feeds, strict=True))


def main(given: Path, other: Path) -> None:
    try:
        found, error = differences(given, other), None
    except EngineryError as refused:
        found, error = (), str(refused)
    click.echo(json.dumps({"error": error, "differences": [asdict(each) for each in found]}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
