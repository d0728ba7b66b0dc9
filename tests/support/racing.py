"""What runs in another process while a test races several builds."""

from __future__ import annotations

import time
from pathlib import Path

from enginery.pipeline.events import Events, StageName
from enginery.pipeline.store import Store
from enginery.pipeline.store.keys import Key


def obtain(root: Path, log: Path, start: float) -> None:
    """At `start`, obtain one result from the store at `root`; write a line into `log` if the stage ran."""

    def slow(folder: Path) -> None:
        with log.open("a") as file:
            file.write("ran\n")
        time.sleep(0.3)
        (folder / "one.txt").write_text("one")

    time.sleep(max(0.0, start - time.time()))
    Store(root).obtain(StageName("export"), Key("export", {"config.x": "1"}), "line", slow, Events())
