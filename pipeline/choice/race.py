"""Times several engines in turns on the same inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from enginery.engines import Session
from enginery.pipeline.events import StageName
from enginery.pipeline.files import pretty_json
from enginery.pipeline.line import RUNTIMES, Line
from enginery.pipeline.machine import processor
from enginery.pipeline.recipe import Precision
from enginery.pipeline.stages.benchmark import FILE, Seconds, take_turns
from enginery.pipeline.store.keys import make_key

Candidates = Sequence[tuple[Line, str, Precision]]
"""Lines, each with a target and a precision."""

STAGE: Final = StageName("benchmark", "candidates")


def race(candidates: Candidates, seconds: float) -> Seconds:
    """Seconds per run at the optimal shape, float64 [rounds, candidates].

    Each candidate is measured for about `seconds`, in turns and in random order, while no other build measures.
    """
    events, begin = candidates[0][0].events, time.monotonic()
    events.started(STAGE, f"{len(candidates)} candidates in turns")
    taken = _measure(candidates, seconds)
    events.finished(STAGE, time.monotonic() - begin)
    return taken


def stored_race(candidates: Candidates, seconds: float) -> Seconds:
    """The same through the store: equal engines on one machine are not measured again."""
    line = candidates[0][0]

    def run(folder: Path) -> None:
        record = {"seconds": _measure(candidates, seconds).tolist()}
        (folder / FILE).write_text(pretty_json(record), encoding="utf-8")

    engines = {str(index): each.compile(target, mode).digest for index, (each, target, mode) in enumerate(candidates)}
    key = make_key(
        STAGE.stage,
        config={"seconds": seconds, "seed": line.recipe.seed},
        inputs={**engines, "shapes": line.shapes_result.digest, "machine": processor()},
        code=[__name__, "enginery.pipeline.stages.benchmark"],
        tools=sorted({tool for tools in RUNTIMES.values() for tool in tools}),
    )
    return np.array(line.store.obtain(STAGE, key, line.line, run, line.events).measured["seconds"])


def _measure(candidates: Candidates, seconds: float) -> Seconds:
    line = candidates[0][0]
    with ExitStack() as stack:
        stack.enter_context(
            line.store.lock("benchmark", lambda: line.events.waiting(STAGE, "another build is measuring"))
        )
        sessions: list[Session] = [
            stack.enter_context(each.open(target, precision)) for each, target, precision in candidates
        ]
        return take_turns(
            sessions,
            line.shapes.inputs_of(line.shapes.case("opt")),
            seconds * len(sessions),
            np.random.default_rng(line.recipe.seed),
            lambda done, total: line.events.progress(STAGE, done, total, "rounds"),
        )


def paired_ratios(seconds: Seconds, baseline: int) -> list[float]:
    """The median of each candidate's ratios to the baseline, round by round."""
    return [float(ratio) for ratio in np.median(seconds / seconds[:, baseline : baseline + 1], axis=0)]
