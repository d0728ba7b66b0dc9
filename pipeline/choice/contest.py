"""Candidates of `--target auto`: built, judged, and run in turns."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from enginery.engines import get_engine
from enginery.errors import EngineryError, RecipeError, UntrustedSourceError
from enginery.pipeline.build import choose_precision, measure_candidate
from enginery.pipeline.choice.race import paired_ratios, shapes_to_race, stored_race
from enginery.pipeline.events import Events
from enginery.pipeline.gates import first_refusal
from enginery.pipeline.line import FLOAT_MODES, Line
from enginery.pipeline.recipe import Mode, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.report import Candidate, ShapeTime
from enginery.pipeline.store import Store

BUSY: Final = 0.5
"""Cores that other work keeps busy, from which on nothing is learnt about numbers of threads."""

CLEARLY: Final = 0.98
"""Session options are changed only for a median ratio below this: less is within what a machine's noise makes."""


@dataclass(frozen=True)
class Trial:
    """One thing to try, and what came of it.

    `shapes` are its latencies over the first float32 engine's, or the first's.
    """

    target: str
    mode: Mode
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    line: Line | None = None
    reason: str = ""
    outcome: str = "tried"
    size: int | None = None
    shapes: tuple[ShapeTime, ...] = ()

    @property
    def latency(self) -> float:
        """The geometric mean of the ratios over all shapes, by weight."""
        logarithms = [np.log(each.ratio) for each in self.shapes]
        return float(np.exp(np.average(logarithms, weights=[each.weight for each in self.shapes])))

    def record(self) -> Candidate:
        return Candidate(
            target=self.target,
            precision=self.mode.value,
            options=dict(self.options),
            outcome=self.outcome,
            reason=self.reason,
            median_ms=self.shapes[0].median_ms if self.shapes else None,
            ratio=self.latency if self.shapes else None,
            bytes=self.size,
            shapes=self.shapes,
        )


@dataclass(frozen=True)
class Contest:
    """What every trial shares. `seconds` is how long the candidates take turns, `budget` when to begin no further."""

    loaded: LoadedRecipe
    store: Store
    events: Events
    allow: Collection[str]
    trust: bool
    seconds: float
    budget: float | None = None
    begin: float = field(default_factory=time.monotonic)

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def by_size(self) -> bool:
        return self.recipe.objective == "size"

    def line(self, target: str, options: Mapping[str, Any]) -> Line:
        return Line(with_options(self.loaded, target, options), self.store, self.events, trust=self.trust)

    def late(self) -> str:
        """Why nothing further is begun, or nothing."""
        spent = self.budget is not None and time.monotonic() - self.begin > self.budget
        return f"the time budget of {self.budget:g} s was spent" if spent else ""


def with_options(loaded: LoadedRecipe, target: str, options: Mapping[str, Any]) -> LoadedRecipe:
    """The recipe with further engine options for one target."""
    if not options:
        return loaded
    engine = {**loaded.recipe.engine, target: {**loaded.recipe.engine.get(target, {}), **options}}
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"engine": engine}))


def try_all(contest: Contest, trials: Sequence[Trial]) -> list[Trial]:
    """Build and judge the candidates; once the budget is spent, only until one is left to deliver."""
    done: list[Trial] = []
    for trial in trials:
        late = contest.late() if any(each.outcome == "tried" for each in done) else ""
        if trial.outcome != "tried":
            done.append(trial)
        elif late:
            done.append(replace(trial, outcome="not tried", reason=late))
        else:
            done.append(judged(contest, trial))
    return done


def judged(contest: Contest, trial: Trial) -> Trial:
    """Build and validate one candidate. What fails here has lost, with a reason; a wrong recipe stops the contest."""
    line, precision = contest.line(trial.target, trial.options), choose_precision(contest.recipe, trial.mode.value)
    try:
        question = measure_candidate(line, trial.target, precision)
    except (RecipeError, UntrustedSourceError):
        raise
    except EngineryError as error:
        return _lost(contest, trial, "failed", str(error))
    if refused := first_refusal(question, contest.allow):
        return _lost(contest, trial, "refused", refused)
    return replace(trial, line=line, size=line.engine_bytes(trial.target, precision))


def rank(contest: Contest, trials: Sequence[Trial]) -> list[Trial]:
    """The candidates, best first, by the paired ratio of their latency: a median of times drifts with the machine."""
    if not trials:
        return []
    timed, _ = _take_turns(contest, trials)
    timed.sort(key=lambda trial: ((trial.size or 0) if contest.by_size else 0, trial.latency))
    word = "larger" if contest.by_size else "slower"
    return [timed[0], *(replace(trial, outcome=word) for trial in timed[1:])]


def tune(contest: Contest, winner: Trial) -> list[Trial]:
    """Search the engine's session options, one at a time: one that is clearly faster than the winner's own is taken.

    All are timed first, and only one that would be taken is validated: most change no result. One that makes the same
    engine (fixed shapes for a model that has no others) is no candidate.

    Returns:
        The choice, then everything else that was tried.
    """
    variants = [replace(winner, options=options, outcome="tried") for options in _variants(contest, winner)]
    if late := contest.late():
        return [winner, *(replace(_untimed(each), outcome="not tried", reason=late) for each in variants)]
    built = [_compiled(contest, each) for each in variants]
    built = [each for each in built if each.outcome != "tried" or _engine(contest, each) != _engine(contest, winner)]
    out = [_untimed(each) for each in built if each.outcome != "tried"]
    (own, *timed), taken = _take_turns(contest, [winner, *(each for each in built if each.outcome == "tried")])
    # One scale for the whole table: what was measured here is told by its ratio to the winner.
    timed = [_beside(winner, own, each) for each in timed]
    if taken > BUSY:
        why = f"other work kept {taken:.1f} cores busy, which says nothing about an idle machine"
        out += [replace(each, outcome="refused", reason=why) for each in timed if "threads" in each.options]
        timed = [each for each in timed if "threads" not in each.options]
    for fastest in sorted(timed, key=lambda trial: trial.latency):
        if fastest.latency >= CLEARLY * winner.latency:
            break
        others = [each for each in timed if each is not fastest]
        found = judged(contest, replace(fastest, outcome="tried"))
        if found.outcome == "tried":
            return [found, replace(winner, outcome="slower"), *others, *out]
        timed = others
        out.append(found)
    return [winner, *timed, *out]


def _variants(contest: Contest, winner: Trial) -> list[Mapping[str, Any]]:
    """The session options of the winner's engine, without those that the recipe sets."""
    given = contest.recipe.engine.get(winner.target, {})
    engine = get_engine(winner.target)
    able = engine.variants if winner.mode in FLOAT_MODES else (*engine.variants_quantized, *engine.variants)
    return [options for options in able if not set(options) & set(given)]


def _compiled(contest: Contest, trial: Trial) -> Trial:
    line = contest.line(trial.target, trial.options)
    try:
        line.compile(trial.target, choose_precision(contest.recipe, trial.mode.value))
    except EngineryError as error:
        return _lost(contest, trial, "failed", str(error))
    return replace(trial, line=line)


def _engine(contest: Contest, trial: Trial) -> str:
    """What tells the trial's engine from others: the digest of its files."""
    assert trial.line is not None
    return trial.line.compile(trial.target, choose_precision(contest.recipe, trial.mode.value)).digest


def _lost(contest: Contest, trial: Trial, outcome: str, reason: str) -> Trial:
    options = "".join(f", {key} {value}" for key, value in trial.options.items())
    contest.events.note(f"candidate {trial.target} {trial.mode}{options} is out: {reason}")
    return replace(trial, outcome=outcome, reason=reason)


def _untimed(trial: Trial) -> Trial:
    return replace(trial, shapes=())


def _beside(winner: Trial, own: Trial, variant: Trial) -> Trial:
    """The variant, told by its ratios to the winner's own options in their race."""
    shapes = [
        each.model_copy(
            update={
                "median_ms": each.median_ms * now.ratio / then.ratio,
                "ratio": each.ratio * now.ratio / then.ratio,
            }
        )
        for each, then, now in zip(winner.shapes, own.shapes, variant.shapes, strict=True)
    ]
    return replace(variant, outcome="slower", shapes=tuple(shapes))


def _take_turns(contest: Contest, trials: Sequence[Trial]) -> tuple[list[Trial], float]:
    """Run the candidates in turns at every shape. Ratios are to the first float32 engine, or to the first.

    Returns:
        The candidates with what they took, and how many cores other work kept busy.
    """
    trials = [_untimed(trial) for trial in trials]
    lines = [trial.line for trial in trials if trial.line is not None]
    modes = [choose_precision(contest.recipe, trial.mode.value) for trial in trials]
    candidates = list(zip(lines, (trial.target for trial in trials), modes, strict=True))
    found = stored_race(candidates, shapes_to_race(contest.recipe), contest.seconds / 2)
    if found.taken > BUSY:
        contest.events.note(f"other work kept {found.taken:.1f} cores busy while candidates were timed")
    baseline = next((index for index, trial in enumerate(trials) if trial.mode is Mode.FP32), 0)
    timed = list(trials)
    for heat in found.heats:
        ratios, medians = paired_ratios(heat.seconds, baseline), 1e3 * np.median(heat.seconds, axis=0)
        for index, (ratio, median) in enumerate(zip(ratios, medians, strict=True)):
            took = ShapeTime(shape=str(heat.case), weight=heat.weight, median_ms=float(median), ratio=ratio)
            timed[index] = replace(timed[index], shapes=(*timed[index].shapes, took))
    return timed, found.taken
