"""The int8 engine that loses no more of the task metric than was allowed, at the least measured cost.

1. Everything is quantized, with the remedies that measurement chooses. Where that passes, nothing is left to do.
2. By each node's sensitivity, sets of nodes that stay in float are searched (`passes.quantize.mixed`); every set is
   built with the remedies of the first engine, run on the evaluation data, and judged by the recipe's own gates.
3. The cheapest sets that pass, by their multiply-accumulates, run in turns with the float engine. The
   first of them is taken, unless another is faster beyond the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from enginery.engines import get_engine
from enginery.errors import GateRefusedError, UsageError
from enginery.passes.quantize import Sensitivity, Trial, pattern_of, search_mixed_precision
from enginery.pipeline.build import measure_candidate
from enginery.pipeline.choice.race import paired_ratios, race
from enginery.pipeline.events import StageName
from enginery.pipeline.gates import Question, first_refusal, judge, refusals
from enginery.pipeline.line import Line
from enginery.pipeline.recipe import Metric, Mode, Precision
from enginery.pipeline.stages.benchmark import speed_figures

RACED: Final = 3
"""Sets that are timed: the cheapest by their multiply-accumulates."""

RACE_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Tried:
    """One engine: its float nodes, what it lost of the metric (None: not measured), why it was refused, if it was.

    `ratio` is its latency over the float engine's, where it was timed.
    """

    floating: tuple[str, ...]
    lost: float | None
    refusal: str | None
    ratio: float | None = None


@dataclass(frozen=True)
class Found:
    """What a search found. `allowed` and `original` are in the metric's own unit; `nodes` counts what was quantized."""

    target: str
    precision: Precision
    original: float
    allowed: float
    nodes: int
    chosen: Tried
    tried: tuple[Tried, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "precision": self.precision.model_dump(mode="json", exclude_defaults=True),
            "original": self.original,
            "allowed": self.allowed,
            "nodes": self.nodes,
            "chosen": vars(self.chosen),
            "tried": [vars(each) for each in self.tried],
        }


@dataclass
class _Search:
    """One search: the engines that were asked about, and what came of each."""

    line: Line
    target: str
    precision: Precision
    metric: Metric
    passes: tuple[str, ...] = ()
    tried: dict[tuple[str, ...], Tried] = field(default_factory=dict[tuple[str, ...], Tried])

    def with_floats(self, floating: tuple[str, ...]) -> Precision:
        """The precision of one set. The first engine's remedies are named: choosing them anew would take minutes."""
        if not floating:
            return self.precision
        keep = (*self.precision.keep_float, *map(pattern_of, floating))
        return self.precision.model_copy(update={"keep_float": keep, "passes": self.passes})

    def accept(self, floating: tuple[str, ...]) -> bool:
        if floating in self.tried:
            return self.tried[floating].refusal is None
        question = measure_candidate(self.line.another(), self.target, self.with_floats(floating))
        refused = _refused(question, self.metric)
        self.tried[floating] = Tried(floating, _lost(question, self.metric), refused)
        self.line.events.progress(StageName("search", self.target), len(self.tried), None, "engines")
        return refused is None


def search(line: Line, target: str, precision: Precision, percent: float) -> Found:
    """Find the int8 engine that loses at most `percent` per cent of the original's metric.

    Args:
        line: of the recipe, which names the metric and the gates' tolerances.
        target: what to build for.
        precision: int8, with what the recipe says besides.
        percent: of the original's own figure.

    Raises:
        UsageError: the recipe names no metric.
        GateRefusedError: no set of float nodes passes, or the fastest is slower than the recipe's speed gate wants.
    """
    metric = line.recipe.metric
    if metric is None:
        raise UsageError(
            f"{line.recipe.name} names no `metric`, so no drop of it can be bounded. Name one in the recipe; "
            "`agreement` needs no labels."
        )
    precision = precision.model_copy(update={"mode": Mode.INT8})
    first = line.another()
    original = _original(measure_candidate(first, target, precision))
    record: dict[str, Any] = first.quantize(target, precision).json("quantize.json")["details"]
    passes = tuple(step["remedy"] for step in record["remedies"] if step["kept"])
    allowed = abs(original) * percent / 100
    run = _Search(line, target, precision, metric.model_copy(update={"max_drop": allowed}), passes)
    if run.accept(()):
        accepted: tuple[Trial, ...] = (Trial((), 0.0, accepted=True),)
    else:
        sensitivity = Sensitivity.from_json(first.sensitivity(target, precision).json("sensitivity.json"))
        everything = len(sensitivity.nodes)
        trials = search_mixed_precision(sensitivity, run.accept, costs=_costs(record)).accepted
        accepted = tuple(trial for trial in trials if len(trial.floating) < everything)
    if not accepted:
        worst = next(iter(run.tried.values()))
        raise GateRefusedError(
            f"No set of float nodes keeps {line.recipe.name} within {percent:g} % of its metric ({allowed:.3g} of "
            f"{original:.5g}) on {target}. All in int8: {worst.refusal}. Allow more, or look at `enginery quantize "
            "--advise`."
        )
    chosen, timed = _race(run, [trial.floating for trial in accepted[:RACED]])
    _demand_speed(line, chosen)
    return Found(
        target=target,
        precision=run.with_floats(chosen.floating),
        original=original,
        allowed=allowed,
        nodes=len(record["integer"]),
        chosen=chosen,
        tried=tuple({**run.tried, **{each.floating: each for each in timed}}.values()),
    )


def _refused(question: Question, metric: Metric) -> str | None:
    """The first gate that refuses when the metric may lose what `metric` says; timings are not judged here."""
    recipe = question.recipe.model_copy(update={"metric": metric})
    return first_refusal(replace(question, recipe=recipe))


def _lost(question: Question, metric: Metric) -> float | None:
    found = question.measured.metric
    return None if found is None else found.lost(higher_is_better=metric.higher_is_better)


def _original(question: Question) -> float:
    if question.measured.metric is None:
        refused = refusals(judge(question))
        reason = refused[0].words if refused else "the metric was not measured"
        raise GateRefusedError(f"{question.recipe.name} in int8 for {question.target}: {reason}.")
    return question.measured.metric.original


def _costs(record: Mapping[str, Any]) -> dict[str, float]:
    """Each node's share of the multiply-accumulates; where calibration could not count them, all cost the same."""
    macs = {node["node"]: node["macs"] for node in record["nodes"] if node["precision"] == "int8"}
    if any(count is None for count in macs.values()):
        return dict.fromkeys(macs, 1.0)
    return {name: count / max(sum(macs.values()), 1) for name, count in macs.items()}


def _race(run: _Search, sets: list[tuple[str, ...]]) -> tuple[Tried, list[Tried]]:
    """Time the sets in turns with the float engine, and take one.

    It is the first, which has the fewest float multiply-accumulates, unless another is faster beyond the noise: unless
    the whole confidence interval of the speed-up lies above 1. Where the target cannot run here it is the first.
    """
    if get_engine(run.target).cannot_run() is not None:
        return run.tried[sets[0]], [run.tried[sets[0]]]
    candidates = [(run.line.another(), run.target, run.with_floats(floating)) for floating in sets]
    seconds = race([*candidates, (run.line.another(), run.target, Precision())], RACE_SECONDS)
    ratios = paired_ratios(seconds, len(sets))
    timed = [replace(run.tried[floating], ratio=ratio) for floating, ratio in zip(sets, ratios, strict=False)]
    generator = np.random.default_rng(run.line.recipe.seed)
    faster = [
        index for index in range(1, len(sets)) if speed_figures(seconds[:, 0] / seconds[:, index], generator)["low"] > 1
    ]
    return timed[min(faster, key=lambda index: ratios[index], default=0)], timed


def _demand_speed(line: Line, chosen: Tried) -> None:
    speed = line.recipe.speed
    if speed.required and chosen.ratio is not None and chosen.ratio * speed.minimum > 1:
        raise GateRefusedError(
            f"The fastest set of {len(chosen.floating)} float nodes takes {chosen.ratio:.2f} times as long as fp32; "
            f"the recipe asks for {speed.minimum:g} times its speed. Allow a larger drop, or build fp32."
        )
