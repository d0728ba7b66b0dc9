"""Times several engines in turns on the same inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from enginery.engines import Session
from enginery.engines.base import Feeds
from enginery.pipeline.comparison.shapes import Case, fit
from enginery.pipeline.events import StageName
from enginery.pipeline.files import pretty_json
from enginery.pipeline.line import RUNTIMES, Line
from enginery.pipeline.machine import cores_taken, processor
from enginery.pipeline.recipe import Precision, Recipe
from enginery.pipeline.stages.benchmark import FILE, MIN_PAIRS
from enginery.pipeline.store.keys import make_key
from enginery.pipeline.turns import Seconds, take_turns

Candidates = Sequence[tuple[Line, str, Precision]]
"""Lines, each with a target and a precision."""

STAGE: Final = StageName("benchmark", "candidates")

FEWEST: Final = 5
"""Rounds at a shape that is slow and not the one that decides alone."""


@dataclass(frozen=True)
class Heat:
    """What was measured at one shape: seconds per run, float64 [rounds, candidates]. `weight` is its say."""

    case: Case
    weight: int
    seconds: Seconds


@dataclass(frozen=True)
class Race:
    """A race at several shapes. `taken` is how many cores other work kept busy when it began."""

    heats: tuple[Heat, ...]
    taken: float


def shapes_to_race(recipe: Recipe) -> list[tuple[Case, int]]:
    """The shapes that `auto` decides by, each with its weight.

    They are the recipe's `shapes`; without any, every dimension at opt, at opt again, at min and at max. One that comes
    twice counts twice.
    """
    ends = {end: {name: int(getattr(dim, end)) for name, dim in recipe.dims.items()} for end in ("opt", "min", "max")}
    wanted = [{**ends["opt"], **each} for each in recipe.shapes] or [ends[end] for end in ("opt", "opt", "min", "max")]
    found: list[tuple[Case, int]] = []
    for sizes in wanted:
        same = next((index for index, (case, _) in enumerate(found) if case.sizes == sizes), None)
        if same is None:
            name = next((end for end in ends if ends[end] == sizes), "shape")
            found.append((Case(name, sizes), 1))
        else:
            found[same] = (found[same][0], found[same][1] + 1)
    return found


def race(candidates: Candidates, seconds: float) -> Seconds:
    """Seconds per run at the optimal shape, float64 [rounds, candidates].

    Each candidate is measured for about `seconds`, in turns and in random order, while no other build measures.
    """
    events, begin, line = candidates[0][0].events, time.monotonic(), candidates[0][0]
    events.started(STAGE, f"{len(candidates)} candidates in turns")
    found = _measure(candidates, [(line.shapes.case("opt"), 1)], seconds)
    events.finished(STAGE, time.monotonic() - begin)
    return found.heats[0].seconds


def stored_race(candidates: Candidates, shapes: Sequence[tuple[Case, int]], seconds: float) -> Race:
    """A race at every one of `shapes` through the store: equal engines on one machine are not measured again.

    Each candidate is measured for about `seconds` at the first shape and for half of that at each of the others.
    """
    line = candidates[0][0]

    def run(folder: Path) -> None:
        found = _measure(candidates, shapes, seconds)
        record = {"heats": [each.seconds.tolist() for each in found.heats], "taken": found.taken}
        (folder / FILE).write_text(pretty_json(record), encoding="utf-8")

    engines = {str(index): each.compile(target, mode).digest for index, (each, target, mode) in enumerate(candidates)}
    key = make_key(
        STAGE.stage,
        config={"seconds": seconds, "seed": line.recipe.seed, "shapes": [dict(case.sizes) for case, _ in shapes]},
        inputs={**engines, "shapes": line.shapes_result.digest, "machine": processor()},
        code=[__name__],
        tools=sorted({tool for tools in RUNTIMES.values() for tool in tools}),
    )
    stored: Any = line.store.obtain(STAGE, key, line.line, run, line.events).measured
    pairs = zip(shapes, stored["heats"], strict=True)
    return Race(tuple(Heat(case, weight, np.array(each)) for (case, weight), each in pairs), stored["taken"])


def _measure(candidates: Candidates, shapes: Sequence[tuple[Case, int]], seconds: float) -> Race:
    line = candidates[0][0]
    with ExitStack() as stack:
        stack.enter_context(
            line.store.lock("benchmark", lambda: line.events.waiting(STAGE, "another build is measuring"))
        )
        taken = cores_taken()
        sessions: list[Session] = [
            stack.enter_context(each.open(target, precision)) for each, target, precision in candidates
        ]
        generator, found = np.random.default_rng(line.recipe.seed), list[Heat]()
        for index, (case, weight) in enumerate(shapes):
            feeds = _feeds(line, case)
            rounds = take_turns(
                [partial(session.run, feeds) for session in sessions],
                generator,
                budget=seconds * len(sessions) / (1 if index == 0 else 2),
                least=MIN_PAIRS if index == 0 else FEWEST,
                heard=lambda done: line.events.progress(STAGE, done, None, "rounds"),
            )
            found.append(Heat(case, weight, rounds))
        return Race(tuple(found), taken)


def _feeds(line: Line, case: Case) -> Feeds:
    """Real inputs of these sizes: those of a case that was compared, or the optimal ones cut and repeated."""
    shapes = line.shapes
    same = next((each for each in shapes.cases if each.sizes == case.sizes), None)
    return (
        shapes.inputs_of(same)
        if same is not None
        else fit(shapes.inputs_of(shapes.case("opt")), line.inputs, case.sizes)
    )


def paired_ratios(seconds: Seconds, baseline: int) -> list[float]:
    """The median of each candidate's ratios to the baseline, round by round."""
    return [float(ratio) for ratio in np.median(seconds / seconds[:, baseline : baseline + 1], axis=0)]
