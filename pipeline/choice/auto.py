"""`--target auto` and `--precision auto`: the choice by measurement.

1. Every target that can build and run on this machine is tried in every precision that makes sense there.
2. A candidate that a gate refuses is out, and so is one that fails; the report says why.
3. The rest run in turns on the same inputs, at every shape of the recipe. The fastest by the geometric mean of its
   ratios (or, by the recipe's objective, the smallest) wins; its session options are then searched the same way.
4. The winner is built like any other bundle, with every gate, the speed gate included.

Everything is built and measured through the store, so a second run, or one that was interrupted, repeats nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from enginery.engines import get_engine, targets
from enginery.errors import GateRefusedError, UsageError
from enginery.pipeline.build import BuildResult, build, choose_precision, choose_target
from enginery.pipeline.choice.contest import Contest, Trial, rank, try_all, tune, with_options
from enginery.pipeline.events import Events
from enginery.pipeline.line import BENCHMARK_SECONDS
from enginery.pipeline.recipe import Mode, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.report import Candidate
from enginery.pipeline.store import Store

AUTO: Final = Mode.AUTO.value


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
    contest = Contest(
        recipe, store or Store.beside(output), events or Events(), tuple(allow), trust, benchmark_seconds, time_budget
    )
    asked = (target or recipe.recipe.targets[0], precision or recipe.recipe.precision.mode.value)
    tried = try_all(contest, list(_candidates(contest.recipe, *asked)))
    ranking = rank(contest, [trial for trial in tried if trial.outcome == "tried"])
    losers = [trial for trial in tried if trial.outcome != "tried"]
    untuned: Trial | None = None
    report: Path | None = None
    while ranking:
        first, *others = ranking
        best, *variants = tune(contest, first) if first is not untuned else [first]
        candidates = _table(best, [*variants, *others, *losers])
        try:
            built = build(
                with_options(recipe, best.target, best.options),
                target=best.target,
                precision=best.mode.value,
                output=output,
                folder=f"{asked[0]}-{asked[1]}",
                store=contest.store,
                allow=allow,
                trust=trust,
                benchmark_seconds=benchmark_seconds,
                candidates=candidates,
                events=contest.events,
            )
        except GateRefusedError as error:
            report = error.report
            losers.append(replace(best, outcome="refused", reason=str(error)))
            # With its own options it may still pass.
            untuned = first if best.options and first is not untuned else None
            ranking = others if untuned is None else ranking
        else:
            return replace(built, candidates=candidates)
    reasons = "; ".join(f"{trial.target} {trial.mode}: {trial.reason}" for trial in losers)
    raise GateRefusedError(f"No candidate for {recipe.recipe.name} passed. {reasons}", report)


def _table(best: Trial, others: Sequence[Trial]) -> tuple[Candidate, ...]:
    """Everything that was tried, the choice first; what is slower or larger says by how much."""

    def told(trial: Trial) -> Trial:
        if trial.outcome == "larger" and trial.size and best.size:
            return replace(trial, reason=f"{trial.size / best.size:.2f} times the size of the choice")
        if trial.outcome in ("slower", "larger") and trial.shapes and best.shapes:
            return replace(trial, reason=f"takes {trial.latency / best.latency:.2f} times as long as the choice")
        return trial

    return tuple(trial.record() for trial in (replace(best, outcome="chosen"), *map(told, others)))


def _candidates(recipe: Recipe, target: str, precision: str) -> Iterator[Trial]:
    """What to try, likely winners first; what cannot be tried comes with its reason."""
    chosen = targets() if target == AUTO else (choose_target(recipe, target),)
    runnable: list[str] = []
    for name in chosen:
        engine = get_engine(name)
        if reason := engine.cannot_build() or engine.cannot_run():
            yield Trial(name, Mode.FP32, outcome="not tried", reason=reason)
        else:
            runnable.append(name)
    if not runnable:
        raise UsageError(f"None of the targets {', '.join(chosen)} runs on this machine. `enginery doctor` says why.")
    for mode in _modes(recipe, precision):
        for name in runnable:
            if mode is not Mode.BF16 or precision != AUTO or mode.value in get_engine(name).native:
                yield Trial(name, mode)


def _modes(recipe: Recipe, precision: str) -> list[Mode]:
    if precision != AUTO:
        return [choose_precision(recipe, precision).mode]
    integer = Mode.INT8 if recipe.data.calibration is not None else Mode.INT8_DYNAMIC
    return [integer, Mode.BF16, Mode.FP32]
