"""What the machine says of itself."""

from __future__ import annotations

import multiprocessing
import time

from enginery.pipeline.machine import cores_taken, processor


def _work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_the_processor_has_a_name() -> None:
    assert processor().strip()


def test_work_of_other_processes_is_seen() -> None:
    other = multiprocessing.get_context("spawn").Process(target=_work, args=(3.0,))
    other.start()
    time.sleep(1.0)
    taken = cores_taken(0.5)
    other.terminate()
    other.join()
    assert taken > 0.2
