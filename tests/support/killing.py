"""Builds a recipe in this process and dies in a given stage: run as a script, `killing.py RECIPE OUTPUT STAGE SIGNAL`.

The listener sends the signal to its own process: once the stage began (`started`), or from within it (`progress`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from tiny_recipes import run_build

from enginery.pipeline.events import Events, StageName


class Killer(Events):
    def __init__(self, stage: str, number: int) -> None:
        self._stage = stage
        self._number = number

    def started(self, stage: StageName, why: str) -> None:
        if stage.stage == self._stage:
            # The stage is to be under way, not about to begin.
            threading.Timer(0.002, os.kill, (os.getpid(), self._number)).start()


def main() -> None:
    recipe, output, stage, number = sys.argv[1:]
    run_build(Path(recipe), Path(output), Killer(stage, getattr(signal, number)), precision="int8")


if __name__ == "__main__":
    main()
