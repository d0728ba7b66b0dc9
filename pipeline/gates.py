"""The gates: checks with a verdict that can stop a build. docs/gates.md explains each to a user.

A gate is a function of what was measured and of the recipe. It measures nothing itself, so a changed tolerance is
judged anew in no time, and it fails closed: a figure that is absent refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enginery.errors import UsageError
from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.comparison import NEAR_ZERO, OutputFigures
from enginery.pipeline.comparison.figures import Measured
from enginery.pipeline.recipe import Mode, Recipe

HALF: Final = frozenset({Mode.FP16, Mode.BF16})
FLOAT: Final = frozenset({Mode.FP32, *HALF})


@dataclass(frozen=True)
class Question:
    """All that a gate may look at."""

    recipe: Recipe
    mode: Mode
    target: str
    measured: Measured
    real_data: bool
    """Whether the recipe names evaluation data."""

    random_calibration: bool = False
    deferred: str | None = None
    """Why this machine cannot run the engine, when it cannot; `measured` is then about the graph it was built from."""


Gate = Callable[[Question], GateVerdict]


def data_gate(question: Question) -> GateVerdict:
    """Refuse an engine that was compared on noise, or calibrated on it."""
    if question.random_calibration:
        return _refused("data", "calibrated on random data: the ranges mean nothing. Use real calibration data")
    if not question.real_data:
        return _refused("data", "compared on random inputs only; name real ones under `data.evaluation` in the recipe")
    return _passed("data", "compared on the recipe's evaluation data")


def outputs_gate(question: Question) -> GateVerdict:
    """Refuse outputs that are absent, not finite, or of another dtype or shape than declared."""
    faults = list(question.measured.faults)
    faults += [f"{o.name} {f}" for o in _every(question.measured) for f in o.faults]
    if not question.measured.cases:
        faults.append("the engine was run at no shape")
    if faults:
        return _refused("outputs", _list(faults), figure=float(len(faults)), bound=0.0)
    return _passed("outputs", "every output is present, finite and of the declared dtype and shape", 0.0, 0.0)


def shapes_gate(question: Question) -> GateVerdict:
    """Refuse an engine that is off at one of the shapes: min, opt, max and odd of every dynamic dimension."""
    worst: tuple[float, str] | None = None
    faults: list[str] = []
    limit = _shape_bound(question)
    for case in question.measured.cases:
        for output in case.outputs:
            figure = _shape_figure(question.mode, output)
            if figure is None:
                faults.append(f"{case.case}: {output.name} {_why_unmeasured(output)}")
            elif worst is None or _is_worse(question.mode, figure, worst[0]):
                worst = (figure, f"{output.name} at {case.case}")
    if faults or worst is None:
        return _refused("shapes", _list(faults or ["no shape was run"]), bound=limit)
    name = "relative error" if question.mode in FLOAT else "mean cosine"
    words = f"largest {name}" if question.mode in FLOAT else f"lowest {name}"
    count = len(question.measured.cases)
    text = f"{words} over {count} shape{'s' * (count > 1)}: {worst[0]:.3g} ({worst[1]}); bound {limit:g}"
    if _is_worse(question.mode, worst[0], limit):
        return _refused("shapes", text, worst[0], limit)
    return _passed("shapes", text, worst[0], limit)


def accuracy_float_gate(question: Question) -> GateVerdict:
    """Refuse a float engine whose largest error, relative to the output's scale, exceeds the recipe's tolerance."""
    name = "accuracy-float"
    if question.mode not in FLOAT:
        return _skipped(name, "a quantized engine; see accuracy-int8")
    bound = _relative_bound(question)
    unmeasured = [f"{o.name} {_why_unmeasured(o)}" for o in _data(question) if _float_figure(o) is None]
    if unmeasured or not _data(question):
        return _refused(name, _list(unmeasured or ["nothing was compared"]), bound=bound)
    worst = max(_data(question), key=lambda o: _float_figure(o) or 0.0)
    figure = _float_figure(worst)
    text = f"largest error {figure:.3g} of the scale of {worst.name} ({worst.samples} samples); bound {bound:g}"
    return (_passed if figure is not None and figure <= bound else _refused)(name, text, figure, bound)


def accuracy_int8_gate(question: Question) -> GateVerdict:
    """Refuse a quantized engine below the floors of mean cosine, minimum cosine or median per-sample SNR."""
    name = "accuracy-int8"
    if question.mode in FLOAT:
        return _skipped(name, "a float engine; see accuracy-float")
    floors = question.recipe.tolerances.quantized
    checks: list[tuple[str, float | None, float]] = []
    for output in _data(question):
        if output.equal is not None:
            checks.append((f"equal elements of {output.name}", output.equal, floors.cosine))
            continue
        small = output.scale < NEAR_ZERO
        checks.append((f"mean cosine of {output.name}", None if small else output.cosine_mean, floors.cosine))
        checks.append((f"minimum cosine of {output.name}", None if small else output.cosine_min, floors.cosine_min))
        checks.append((f"median SNR (dB) of {output.name}", None if small else output.snr, floors.snr))
    unmeasured = [f"{o.name} {_why_unmeasured(o)}" for o in _data(question) if _is_unmeasured(o)]
    if unmeasured or not checks:
        return _refused(name, _list(unmeasured or ["nothing was compared"]), bound=floors.cosine)
    failed = [check for check in checks if check[1] is None or check[1] < check[2]]
    shown = failed or checks
    words = "; ".join(
        f"{what} {_digits(figure, floor)} (floor {floor:g})" for what, figure, floor in shown if figure is not None
    )
    _, figure, bound = shown[0]
    return (_refused if failed else _passed)(name, words, figure, bound)


def _digits(figure: float, floor: float) -> str:
    """Four digits, or enough to tell a figure from the floor that it misses."""
    return f"{figure:.4g}" if (float(f"{figure:.4g}") < floor) == (figure < floor) else f"{figure:.8g}"


def metric_gate(question: Question) -> GateVerdict:
    """Refuse an engine that loses more of the task metric than the recipe allows."""
    metric = question.recipe.metric
    if metric is None and question.recipe.module_passes:
        return _refused("metric", "module passes change the model's answers; name a `metric` that bounds the loss")
    if metric is None:
        return _skipped("metric", "the recipe names no task metric")
    found = question.measured.metric
    if found is None:
        return _refused("metric", "the metric was not measured", bound=metric.max_drop)
    drop = found.lost(higher_is_better=metric.higher_is_better)
    text = (
        f"{metric.name or metric.python}: original {found.original:.5g}, engine {found.engine:.5g}, "
        f"drop {drop:.3g}; allowed {metric.max_drop:g}"
    )
    return (_passed if drop <= metric.max_drop else _refused)("metric", text, drop, metric.max_drop)


def expected_metric_gate(question: Question) -> GateVerdict:
    """Refuse when the original does not reach the figure that the recipe expects: the comparison would mean little."""
    metric = question.recipe.metric
    if metric is None or metric.expected is None:
        return _skipped("expected-metric", "the recipe states no expected figure")
    found = question.measured.metric
    if found is None:
        return _refused("expected-metric", "the metric was not measured", bound=metric.expected)
    off = abs(found.original - metric.expected)
    text = (
        f"the original measures {found.original:.5g}; the recipe expects {metric.expected:g} "
        f"± {metric.expected_tolerance:g}"
    )
    passed = off <= metric.expected_tolerance
    return (_passed if passed else _refused)("expected-metric", text, found.original, metric.expected)


def fallback_gate(question: Question) -> GateVerdict:
    """Refuse an engine that runs elsewhere than asked: another provider, or nodes left on the CPU."""
    session = question.measured.session
    if not session:
        return _refused("fallback", "the engine did not say where it runs")
    if strays := session.get("fallback"):
        return _refused("fallback", f"not on the asked device: {_list([str(item) for item in strays])}")
    where = session.get("provider") or session.get("device") or session.get("runtime")
    return _passed("fallback", f"runs on {where}, as asked")


def speed_gate(question: Question) -> GateVerdict:
    """Refuse a quantized engine whose speed-up over the float engine does not reliably reach the recipe's minimum."""
    speed = question.recipe.speed
    if question.mode is Mode.FP32:
        return _skipped("speed", "the float engine is its own baseline")
    found = question.measured.speed
    if found is None:
        return _refused("speed", "the speed was not measured", bound=speed.minimum)
    text = (
        f"{found.speedup:.2f} times the float engine's speed "
        f"({found.confidence:.0%} interval {found.low:.2f} to {found.high:.2f}, {found.pairs} pairs); "
        f"at least {speed.minimum:g}"
    )
    if found.low >= speed.minimum:
        return _passed("speed", text, found.speedup, speed.minimum)
    if not speed.required:
        return GateVerdict(
            gate="speed", verdict=Verdict.ALLOWED, figure=found.speedup, bound=speed.minimum,
            words=f"{text}; the recipe says `speed.required: false`",
        )  # fmt: skip
    return _refused("speed", f"{text}. Say `speed: {{required: false}}` if size matters", found.speedup, speed.minimum)


GATES: Final[Mapping[str, Gate]] = {
    "data": data_gate,
    "outputs": outputs_gate,
    "shapes": shapes_gate,
    "accuracy-float": accuracy_float_gate,
    "accuracy-int8": accuracy_int8_gate,
    "expected-metric": expected_metric_gate,
    "metric": metric_gate,
    "fallback": fallback_gate,
    "speed": speed_gate,
}

NEEDS_ENGINE: Final = frozenset({"fallback", "speed"})
"""Gates that only a running engine can answer."""

TIMED_GATES: Final = frozenset({"speed"})
"""Gates whose figure is a timing: a manifest holds their verdict, the measurements their figure."""

SAYS_OF_GRAPH: Final = frozenset({"outputs", "shapes", "accuracy-float", "accuracy-int8", "metric"})
"""Gates that the graph can already fail before an engine runs, and that the engine must pass all the same."""


def check_allowed(allow: Collection[str]) -> None:
    """Raise UsageError when `--allow` names no gate."""
    if unknown := sorted(set(allow) - set(GATES)):
        raise UsageError(f"No gate is called {unknown[0]!r}. Gates: {', '.join(GATES)}.")


def judge(question: Question, allow: Collection[str] = ()) -> tuple[GateVerdict, ...]:
    """Ask every gate. A refusal that the user allowed is recorded as such, with its figure."""
    check_allowed(allow)
    return tuple(_judge_one(name, gate, question, allow) for name, gate in GATES.items())


def _judge_one(name: str, gate: Gate, question: Question, allow: Collection[str]) -> GateVerdict:
    verdict = gate(question)
    if question.deferred is not None and verdict.verdict is not Verdict.SKIPPED:
        verdict = _defer(verdict, question.deferred)
    if verdict.verdict is Verdict.REFUSED and name in allow:
        return verdict.model_copy(update={"verdict": Verdict.ALLOWED, "words": f"{verdict.words}; allowed by --allow"})
    return verdict


def _defer(verdict: GateVerdict, reason: str) -> GateVerdict:
    """What a verdict is worth when the engine cannot run here: a graph that fails fails now, one that holds waits."""
    waits = f"waits for a machine that can run it ({reason.rstrip('.')})"
    if verdict.gate in NEEDS_ENGINE:
        return GateVerdict(gate=verdict.gate, verdict=Verdict.DEFERRED, words=f"the engine {waits}")
    if verdict.gate not in SAYS_OF_GRAPH:
        return verdict
    if verdict.verdict is Verdict.REFUSED:
        return verdict.model_copy(update={"words": f"the graph that the engine was built from: {verdict.words}"})
    words = f"the graph holds ({verdict.words}); the engine {waits}"
    return verdict.model_copy(update={"verdict": Verdict.DEFERRED, "words": words})


def without_timing(verdict: GateVerdict) -> GateVerdict:
    """A verdict as a manifest holds it: equal in every build, so without figures that are timings."""
    if verdict.gate not in TIMED_GATES or verdict.figure is None:
        return verdict
    return verdict.model_copy(update={"figure": None, "words": "measured; the figures stand in the measurements"})


def refusals(verdicts: Iterable[GateVerdict]) -> list[GateVerdict]:
    return [verdict for verdict in verdicts if verdict.verdict is Verdict.REFUSED]


def first_refusal(question: Question, allow: Collection[str] = ()) -> str | None:
    """The first gate that refuses, in words; timings are not judged, since a candidate is timed apart."""
    refused = [verdict for verdict in refusals(judge(question, allow)) if verdict.gate not in TIMED_GATES]
    return f"gate {refused[0].gate}: {refused[0].words}" if refused else None


def _every(measured: Measured) -> Iterable[OutputFigures]:
    for case in measured.cases:
        yield from case.outputs
    yield from measured.evaluation


def _data(question: Question) -> Sequence[OutputFigures]:
    """The figures on evaluation data; where the recipe names none (the data gate refuses that), those of the shapes."""
    if question.real_data:
        return question.measured.evaluation
    return [output for case in question.measured.cases for output in case.outputs]


def _relative_bound(question: Question) -> float:
    tolerances = question.recipe.tolerances
    return (tolerances.half if question.mode in HALF else tolerances.float_).relative


def _shape_bound(question: Question) -> float:
    """For quantized engines the floor is that of the worst sample: a shape can hold one sample alone."""
    if question.mode in FLOAT:
        return _relative_bound(question)
    return question.recipe.tolerances.quantized.cosine_min


def _shape_figure(mode: Mode, output: OutputFigures) -> float | None:
    if mode in FLOAT:
        return _float_figure(output)
    if _is_unmeasured(output):
        return None
    return output.equal if output.equal is not None else output.cosine_mean


def _is_worse(mode: Mode, figure: float, other: float) -> bool:
    return figure > other if mode in FLOAT else figure < other


def _float_figure(output: OutputFigures) -> float | None:
    """The relative error; for integers the fraction of elements that differ."""
    if _is_unmeasured(output):
        return None
    return 1.0 - output.equal if output.equal is not None else output.relative


def _is_unmeasured(output: OutputFigures) -> bool:
    return bool(output.faults) or not output.samples or (output.equal is None and output.scale < NEAR_ZERO)


def _why_unmeasured(output: OutputFigures) -> str:
    if output.faults:
        return output.faults[0]
    if not output.samples:
        return "was compared on no valid sample"
    return (
        f"has a scale of {output.scale:.2g} in the original: near zero, any tolerance would pass and nothing is shown. "
        "Check the model's weights and the data"
    )


def _list(items: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def _passed(gate: str, words: str, figure: float | None = None, bound: float | None = None) -> GateVerdict:
    return GateVerdict(gate=gate, verdict=Verdict.PASSED, words=words, figure=figure, bound=bound)


def _refused(gate: str, words: str, figure: float | None = None, bound: float | None = None) -> GateVerdict:
    return GateVerdict(gate=gate, verdict=Verdict.REFUSED, words=words, figure=figure, bound=bound)


def _skipped(gate: str, words: str) -> GateVerdict:
    return GateVerdict(gate=gate, verdict=Verdict.SKIPPED, words=words)
