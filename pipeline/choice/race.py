"""Times several engines in turns on the same inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from enginery.engines import Session
from enginery.pipeline.events import StageName
from enginery.pipeline.line import Line
from enginery.pipeline.recipe import Precision
from enginery.pipeline.stages.benchmark import Seconds, take_turns


def race(candidates: Sequence[tuple[Line, str, Precision]], seconds: float) -> Seconds:
    """Seconds per run at the optimal shape, float64 [rounds, candidates].

    Candidates are lines with a target and a precision. Each is measured for about `seconds`, in turns and in random
    order, while no other build measures.
    """
    line = candidates[0][0]
    stage = StageName("benchmark", "candidates")
    with ExitStack() as stack:
        stack.enter_context(
            line.store.lock("benchmark", lambda: line.events.waiting(stage, "another build is measuring"))
        )
        sessions: list[Session] = [
            stack.enter_context(each.open(target, precision)) for each, target, precision in candidates
        ]
        line.events.started(stage, f"{len(sessions)} candidates in turns")
        begin = time.monotonic()
        taken = take_turns(
            sessions,
            line.shapes.inputs_of(line.shapes.case("opt")),
            seconds * len(sessions),
            np.random.default_rng(line.recipe.seed),
            lambda done, total: line.events.progress(stage, done, total, "rounds"),
        )
        line.events.finished(stage, time.monotonic() - begin)
    return taken


def paired_ratios(seconds: Seconds, baseline: int) -> list[float]:
    """The median of each candidate's ratios to the baseline, round by round."""
    return [float(ratio) for ratio in np.median(seconds / seconds[:, baseline : baseline + 1], axis=0)]
