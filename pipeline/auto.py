"""`--target auto` and `--precision auto`: the choice by measurement.

1. Every target that can build and run on this machine is tried in every precision that makes sense there.
2. A candidate that a gate refuses is out, and so is one that fails; the report says why.
3. The rest run in turns on the same inputs at the optimal shape. The fastest (or, by the recipe's objective, the
   smallest) wins; its session options are then searched the same way.
4. The winner is built like any other bundle, with every gate, the speed gate included.

Everything is built through the store, so a second run, or one that was interrupted, repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from enginery.engines import get_engine, targets
from enginery.errors import EngineryError, GateRefusedError, RecipeError, UntrustedSourceError, UsageError
from enginery.pipeline.build import BuildResult, build, choose_precision, choose_target, measure_candidate
from enginery.pipeline.choice.race import paired_ratios, race
from enginery.pipeline.events import Events
from enginery.pipeline.gates import first_refusal
from enginery.pipeline.line import BENCHMARK_SECONDS, FLOAT_MODES, Line
from enginery.pipeline.recipe import Mode, Precision, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.report import Candidate
from enginery.pipeline.store import Store

AUTO: Final = Mode.AUTO.value
CLEARLY: Final = 0.98
"""Session options are changed only for a median ratio below this: less is within what a machine's noise makes."""


@dataclass(frozen=True)
class _Trial:
    """One thing to try, and what came of it."""

    target: str
    mode: Mode
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    line: Line | None = None
    reason: str = ""
    outcome: str = "tried"
    size: int | None = None
    median_ms: float | None = None
    ratio: float | None = None

    def record(self) -> Candidate:
        return Candidate(
            target=self.target,
            precision=self.mode.value,
            options=dict(self.options),
            outcome=self.outcome,
            reason=self.reason,
            median_ms=self.median_ms,
            ratio=self.ratio,
            bytes=self.size,
        )


@dataclass(frozen=True)
class _Contest:
    """What every trial shares."""

    loaded: LoadedRecipe
    store: Store
    events: Events
    allow: Collection[str]
    trust: bool
    seconds: float

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    def line(self, target: str, options: Mapping[str, Any]) -> Line:
        return Line(with_options(self.loaded, target, options), self.store, self.events, trust=self.trust)


def build_auto(
    recipe: LoadedRecipe,
    *,
    target: str | None = AUTO,
    precision: str | None = None,
    output: Path = Path("build"),
    store: Store | None = None,
    allow: Collection[str] = (),
    trust: bool = False,
    time_budget: float | None = None,
    benchmark_seconds: float = BENCHMARK_SECONDS,
    events: Events | None = None,
) -> BuildResult:
    """Build what makes sense here and deliver the best, in `output/<model>/<target>-<precision>/` as they were asked.

    Args:
        recipe: the loaded recipe.
        target: `auto`, or one target whose precision is chosen.
        precision: `auto`, or one mode whose target is chosen; default: the recipe's.
        output: the folder for bundles.
        store: where stage results are kept.
        allow: names of gates whose refusal is recorded instead of stopping the build.
        trust: whether a source may be loaded that can execute code.
        time_budget: seconds after which no further candidate is begun; the first one always is.
        benchmark_seconds: how long the candidates take turns.
        events: hears what happens.

    Raises:
        GateRefusedError: no candidate passed; the message names each with its reason.
        UsageError: the target, precision or gate named is wrong.
    """
    contest = _Contest(
        recipe, store or Store.beside(output), events or Events(), tuple(allow), trust, benchmark_seconds
    )
    asked = (target or recipe.recipe.targets[0], precision or recipe.recipe.precision.mode.value)
    tried = _try_all(contest, list(_candidates(contest.recipe, *asked)), time_budget)
    ranking = _rank(contest, [trial for trial in tried if trial.outcome == "tried"])
    losers = [trial for trial in tried if trial.outcome != "tried"]
    while ranking:
        (best, *variants), others = _tune(contest, ranking[0]), ranking[1:]
        table = [replace(best, outcome="chosen"), *variants, *others, *losers]
        try:
            return build(
                with_options(recipe, best.target, best.options),
                target=best.target,
                precision=best.mode.value,
                output=output,
                folder=f"{asked[0]}-{asked[1]}",
                store=contest.store,
                allow=allow,
                trust=trust,
                benchmark_seconds=benchmark_seconds,
                candidates=tuple(trial.record() for trial in table),
                events=contest.events,
            )
        except GateRefusedError as error:
            losers.append(replace(best, outcome="refused", reason=str(error)))
            ranking = others
    reasons = "; ".join(f"{trial.target} {trial.mode}: {trial.reason}" for trial in losers)
    raise GateRefusedError(f"No candidate for {recipe.recipe.name} passed. {reasons}")


def with_options(loaded: LoadedRecipe, target: str, options: Mapping[str, Any]) -> LoadedRecipe:
    """The recipe with further engine options for one target."""
    if not options:
        return loaded
    engine = {**loaded.recipe.engine, target: {**loaded.recipe.engine.get(target, {}), **options}}
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"engine": engine}))


def _candidates(recipe: Recipe, target: str, precision: str) -> Iterator[_Trial]:
    """What to try, likely winners first; what cannot be tried comes with its reason."""
    chosen = targets() if target == AUTO else (choose_target(recipe, target),)
    runnable: list[str] = []
    for name in chosen:
        engine = get_engine(name)
        if reason := engine.cannot_build() or engine.cannot_run():
            yield _Trial(name, Mode.FP32, outcome="not tried", reason=reason)
        else:
            runnable.append(name)
    if not runnable:
        raise UsageError(f"None of the targets {', '.join(chosen)} runs on this machine. `enginery doctor` says why.")
    for mode in _modes(recipe, precision):
        for name in runnable:
            if mode is not Mode.BF16 or precision != AUTO or mode.value in get_engine(name).native:
                yield _Trial(name, mode)


def _modes(recipe: Recipe, precision: str) -> list[Mode]:
    if precision != AUTO:
        return [choose_precision(recipe, precision).mode]
    integer = Mode.INT8 if recipe.data.calibration is not None else Mode.INT8_DYNAMIC
    return [integer, Mode.BF16, Mode.FP32]


def _try_all(contest: _Contest, trials: Sequence[_Trial], time_budget: float | None) -> list[_Trial]:
    begin = time.monotonic()
    done: list[_Trial] = []
    for trial in trials:
        spent = time.monotonic() - begin
        if trial.outcome == "tried" and time_budget is not None and spent > time_budget and _has_survivor(done):
            trial = replace(trial, outcome="not tried", reason=f"the time budget of {time_budget:g} s was spent")
        done.append(_try(contest, trial) if trial.outcome == "tried" else trial)
    return done


def _has_survivor(trials: Sequence[_Trial]) -> bool:
    return any(trial.outcome == "tried" for trial in trials)


def _try(contest: _Contest, trial: _Trial) -> _Trial:
    """Build and validate one candidate. What fails here has lost, with a reason; a wrong recipe stops the contest."""
    line = contest.line(trial.target, trial.options)
    precision = choose_precision(contest.recipe, trial.mode.value)
    try:
        question = measure_candidate(line, trial.target, precision)
    except (RecipeError, UntrustedSourceError):
        raise
    except EngineryError as error:
        return replace(trial, outcome="failed", reason=str(error))
    if refused := first_refusal(question, contest.allow):
        return replace(trial, outcome="refused", reason=refused)
    return replace(trial, line=line, size=line.engine_bytes(trial.target, precision))


def _rank(contest: _Contest, trials: Sequence[_Trial]) -> list[_Trial]:
    """The candidates, best first, by the paired ratio of their latency: a median of times drifts with the machine."""
    if not trials:
        return []
    timed = _take_turns(contest, trials)
    if contest.recipe.objective == "size":
        timed.sort(key=lambda trial: (trial.size or 0, trial.ratio or 0.0))
    else:
        timed.sort(key=lambda trial: trial.ratio or 0.0)
    word = "larger" if contest.recipe.objective == "size" else "slower"
    return [timed[0], *(replace(trial, outcome=word) for trial in timed[1:])]


def _take_turns(contest: _Contest, trials: Sequence[_Trial]) -> list[_Trial]:
    """Run the candidates in turns at the optimal shape. Ratios are to the first float32 engine, or to the first."""
    candidates = [_entry(contest, trial) for trial in trials]
    seconds = race(candidates, contest.seconds / 2)
    baseline = next((index for index, trial in enumerate(trials) if trial.mode is Mode.FP32), 0)
    ratios = paired_ratios(seconds, baseline)
    medians = 1e3 * np.median(seconds, axis=0)
    return [
        replace(trial, median_ms=float(median), ratio=ratio)
        for trial, median, ratio in zip(trials, medians, ratios, strict=True)
    ]


def _entry(contest: _Contest, trial: _Trial) -> tuple[Line, str, Precision]:
    assert trial.line is not None
    return trial.line, trial.target, choose_precision(contest.recipe, trial.mode.value)


def _tune(contest: _Contest, winner: _Trial) -> list[_Trial]:
    """Search the engine's session options, one at a time: one that is clearly faster than the winner's own is taken.

    Returns the choice, then everything else that was tried.
    """
    given = contest.recipe.engine.get(winner.target, {})
    engine = get_engine(winner.target)
    able = engine.variants if winner.mode in FLOAT_MODES else (*engine.variants_quantized, *engine.variants)
    variants = [v for v in able if not set(v) & set(given)]
    tried = [_try(contest, replace(winner, options=variant, outcome="tried")) for variant in variants]
    out = [trial for trial in tried if trial.outcome != "tried"]
    own, *timed = _take_turns(contest, [winner, *(trial for trial in tried if trial.outcome == "tried")])
    scale = (winner.ratio or 1.0) / _latency(own)
    timed = [replace(trial, outcome="slower", ratio=scale * _latency(trial)) for trial in timed]
    fastest = min(timed, key=_latency, default=winner)
    if timed and _latency(fastest) < CLEARLY * _latency(own):
        rest = [replace(winner, outcome="slower"), *(trial for trial in timed if trial is not fastest)]
        return [fastest, *rest, *out]
    return [winner, *timed, *out]


def _latency(trial: _Trial) -> float:
    assert trial.median_ms is not None
    return trial.median_ms
