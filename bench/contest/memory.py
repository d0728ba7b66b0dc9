"""What a candidate takes of memory to open and run, in a process of its own.

The peak is counted from the moment when the runtime is imported and the inputs are there, so neither Python nor the
libraries' code are in it; weights that are mapped from a file count as far as they were read.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from contest.builds import Builder, Built

RUNS = 3


def run_mb(built: Built, builder: Builder, feeds: dict[str, np.ndarray]) -> float | None:
    """The rise of the peak in MB over opening the candidate and a few runs; None where it fails or takes minutes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(pickle.dumps((built, builder.case, builder.work, builder.peers, builder.threads, feeds)))
        file.flush()
        command = [sys.executable, __file__, file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        except subprocess.TimeoutExpired:
            return None
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def main(path: str) -> None:
    from own_memory import forget_peak, peak_mib, resident_mib

    from contest.builds import Builder
    from contest.sessions import import_runtime, open_candidate

    built, case, work, peers, threads, feeds = pickle.loads(Path(path).read_bytes())
    import_runtime(built)
    builder = Builder(case, work, peers, threads)
    forget_peak()
    before = resident_mib()
    run = open_candidate(built, builder)
    for _ in range(RUNS):
        run(feeds)
    print(peak_mib() - before)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1])
