"""Measures every precision that makes sense for a target, and says which to take and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from enginery.engines import get_engine
from enginery.errors import EngineryError, RecipeError, UntrustedSourceError
from enginery.pipeline.build import measure_candidate
from enginery.pipeline.choice.race import paired_ratios, race
from enginery.pipeline.choice.search import search
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.gates import Question, first_refusal
from enginery.pipeline.line import TYPED_GRAPHS, Line
from enginery.pipeline.recipe import Mode, Precision

CLEARLY: Final = 0.95
"""Latencies within this ratio of each other count as equal, and the smaller engine is taken."""

SECONDS: Final = 2.0
MIXED: Final = "int8, mixed"


@dataclass(frozen=True)
class Row:
    """One precision, and what was measured of it; None is what was not.

    `outcome` is `passed`, `refused` (by a gate), or `failed`. `cosine` is the mean and `worst` the least over the
    evaluation data of the worst output, `snr` its median in dB, `lost` of the metric in its own unit, `ratio` the
    latency over the float engine's, `size` the engine's bytes.
    """

    name: str
    precision: Precision
    outcome: str
    reason: str = ""
    cosine: float | None = None
    worst: float | None = None
    snr: float | None = None
    lost: float | None = None
    ratio: float | None = None
    size: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "precision": self.precision.model_dump(mode="json", exclude_defaults=True)}


@dataclass(frozen=True)
class Advice:
    """The rows, float32 first, the one to take, and why."""

    target: str
    objective: str
    rows: tuple[Row, ...]
    take: Row
    why: str

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "objective": self.objective,
            "take": self.take.name,
            "why": self.why,
            "rows": [row.to_json() for row in self.rows],
        }


def advise(line: Line, target: str) -> Advice:
    """Build, compare and time each precision for `target`.

    What a gate refuses or cannot be built is a row with its reason. Where static int8 is refused for its accuracy and
    the recipe names a metric, mixed precision is searched for. Everything goes through the store, so a second run
    repeats nothing but the timing.

    Raises:
        EngineryError: float32 itself cannot be built.
    """
    float32 = _measure(line, target, "fp32", Precision(), must=True)
    rows = [float32, *(_measure(line, target, name, each) for name, each in _precisions(line, target))]
    if (mixed := _mixed(line, target, rows)) is not None:
        rows.append(mixed)
    rows = _timed(line, target, rows)
    take = choose(rows, line.recipe.objective)
    return Advice(target, line.recipe.objective, tuple(rows), take, "; ".join(_reasons(take, rows, line)))


def _precisions(line: Line, target: str) -> Iterator[tuple[str, Precision]]:
    """Every mode, and static int8 beside each half precision that the target has."""
    halves = [Mode.FP16] if target in TYPED_GRAPHS else []
    if target in TYPED_GRAPHS or Mode.BF16.value in get_engine(target).native:
        halves.append(Mode.BF16)
    for mode in (*halves, Mode.INT8, Mode.INT8_DYNAMIC, Mode.INT8_WEIGHT, Mode.INT4_WEIGHT):
        yield mode.value, _with(line, mode, "fp32")
        if mode is Mode.INT8:
            yield from ((f"{mode} {half}", _with(line, mode, half.value)) for half in halves)


def _with(line: Line, mode: Mode, rest: str) -> Precision:
    return line.recipe.precision.model_copy(update={"mode": mode, "rest": rest})


def _measure(line: Line, target: str, name: str, precision: Precision, *, must: bool = False) -> Row:
    line = line.another()
    try:
        question = measure_candidate(line, target, precision)
        size = line.engine_bytes(target, precision)
    except (RecipeError, UntrustedSourceError):
        raise
    except EngineryError as error:
        if must:
            raise
        return Row(name, precision, "failed", str(error))
    refused = first_refusal(question)
    row = Row(name, precision, "refused" if refused else "passed", refused or "", size=size)
    return replace(row, **_accuracy(question))


def _accuracy(question: Question) -> dict[str, float | None]:
    """The figures of the output that is farthest off."""
    measured = question.measured
    outputs = measured.evaluation or [output for case in measured.cases for output in case.outputs]
    worst: OutputFigures | None = min(outputs, key=lambda output: output.cosine_mean or 0.0, default=None)
    found: dict[str, float | None] = {}
    if worst is not None:
        found |= {"cosine": worst.cosine_mean, "worst": worst.cosine_min, "snr": worst.snr}
    if measured.metric is not None and question.recipe.metric is not None:
        found["lost"] = measured.metric.lost(higher_is_better=question.recipe.metric.higher_is_better)
    return found


def _mixed(line: Line, target: str, rows: Sequence[Row]) -> Row | None:
    """Static int8 with some nodes in float, where accuracy alone keeps it from passing and a metric says how much."""
    static = next(row for row in rows if row.name == Mode.INT8.value)
    metric = line.recipe.metric
    if static.outcome != "refused" or static.lost is None or metric is None:
        return None
    original = measure_candidate(line.another(), target, static.precision).measured.metric
    assert original is not None
    try:
        found = search(line, target, static.precision, 100 * metric.max_drop / abs(original.original))
    except EngineryError as error:
        return Row(MIXED, static.precision, "failed", str(error))
    return _measure(line, target, MIXED, found.precision)


def _timed(line: Line, target: str, rows: Sequence[Row]) -> list[Row]:
    """The rows with the latency of every engine that was built, where the target runs here."""
    if get_engine(target).cannot_run() is not None:
        return list(rows)
    built = [row for row in rows if row.outcome != "failed"]
    seconds = race([(line.another(), target, row.precision) for row in built], SECONDS)
    ratios = dict(zip((row.name for row in built), paired_ratios(seconds, 0), strict=True))
    return [replace(row, ratio=ratios.get(row.name)) for row in rows]


def choose(rows: Sequence[Row], objective: str) -> Row:
    """The fastest that passed, or among those about as fast the smallest; by size where the recipe says so."""
    passed = [row for row in rows if row.outcome == "passed"] or [rows[0]]
    if objective == "size" or any(row.ratio is None for row in passed):
        return min(passed, key=lambda row: (row.size or 0, row.ratio or 0.0))
    fastest = min(row.ratio or 0.0 for row in passed)
    return min((row for row in passed if CLEARLY * (row.ratio or 0.0) <= fastest), key=lambda row: row.size or 0)


def _reasons(take: Row, rows: Sequence[Row], line: Line) -> Iterator[str]:
    float32 = rows[0]
    if take is float32:
        yield "no other precision passes every gate and is faster" if take.ratio is not None else "nothing else passes"
    else:
        speed = f"{1 / take.ratio:.2f} times the speed of fp32 and " if take.ratio else "not timed on this machine; "
        yield f"{speed}{(take.size or 0) / max(float32.size or 1, 1):.0%} of its size"
        yield "every accuracy gate passes"
    if take.lost is not None and line.recipe.metric is not None:
        yield f"the metric loses {take.lost:.3g} of the {line.recipe.metric.max_drop:g} that the recipe allows"
    smallest = min((row for row in rows if row.outcome == "passed"), key=lambda row: row.size or 0, default=take)
    if smallest.name != take.name:
        share = (smallest.size or 0) / max(float32.size or 1, 1)
        yield f"where size matters most, {smallest.name} has {share:.0%} of fp32's"
