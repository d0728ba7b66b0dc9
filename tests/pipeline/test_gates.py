"""Each gate, case by case: what passes, what refuses, and with which figure and words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enginery.errors import UsageError
from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.comparison import OutputFigures
from enginery.pipeline.comparison.figures import CaseFigures, Measured, MetricFigures, SpeedFigures
from enginery.pipeline.gates import GATES, Question, check_allowed, judge, refusals
from enginery.pipeline.recipe import Mode, Recipe

GOOD = OutputFigures(
    name="y", samples=48, scale=2.0, max_abs=1e-5, mean_abs=1e-6, relative=5e-6, cosine_mean=0.999, cosine_min=0.99,
    snr=35.0, top1=1.0, equal=None,
)  # fmt: skip
INTEGERS = replace(GOOD, relative=None, cosine_mean=None, cosine_min=None, snr=None, top1=None, equal=1.0)
FAST = SpeedFigures(speedup=1.6, low=1.4, high=1.8, confidence=0.95, pairs=40)
METRIC = {"name": "top1", "max_drop": 0.01}


def _recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"name": "net", "source": {"onnx": "net.onnx"}, "inputs": {}, **changes})


def _measured(output: OutputFigures = GOOD, **changes: Any) -> Measured:
    found = Measured(
        cases=(CaseFigures("opt (batch=8)", (output,)), CaseFigures("max (batch=16)", (output,))),
        evaluation=(output,),
        session={"provider": "CPUExecutionProvider"},
        speed=FAST,
    )
    return replace(found, **changes)


def _question(
    measured: Measured | None = None, mode: Mode = Mode.FP32, recipe: Recipe | None = None, **changes: Any
) -> Question:
    question = Question(recipe or _recipe(), mode, "onnxruntime-cpu", measured or _measured(), real_data=True)
    return replace(question, **changes)


def _ask(gate: str, *args: Any, **kwargs: Any) -> GateVerdict:
    return GATES[gate](_question(*args, **kwargs))


@pytest.mark.parametrize("mode", [Mode.FP32, Mode.FP16, Mode.INT8, Mode.INT8_WEIGHT, Mode.INT4_WEIGHT])
def test_a_good_engine_passes_every_gate_that_applies(mode: Mode) -> None:
    assert refusals(judge(_question(mode=mode))) == []
    assert {verdict.verdict for verdict in judge(_question(mode=mode))} <= {Verdict.PASSED, Verdict.SKIPPED}


def test_an_engine_of_which_nothing_is_known_passes_no_gate_that_needs_it() -> None:
    question = _question(Measured(), Mode.INT8, _recipe(metric=METRIC))
    passed = {verdict.gate for verdict in judge(question) if verdict.verdict is Verdict.PASSED}
    assert passed == {"data"}


@pytest.mark.parametrize(
    ("gate", "output", "words"),
    [
        (
            "outputs",
            replace(GOOD, faults=("has 3 values that are NaN or infinite, from the engine",)),
            "y has 3 values",
        ),
        ("shapes", replace(GOOD, relative=2e-4), "largest relative error over 2 shapes: 0.0002"),
        ("shapes", replace(GOOD, scale=1e-9), "near zero, any tolerance would pass"),
        ("shapes", replace(GOOD, samples=0), "was compared on no valid sample"),
        ("accuracy-float", replace(GOOD, relative=2e-4), "largest error 0.0002 of the scale of y (48 samples)"),
        ("accuracy-float", replace(GOOD, scale=1e-9), "near zero, any tolerance would pass"),
        ("accuracy-float", replace(INTEGERS, equal=0.999), "largest error 0.001"),
    ],
)
def test_a_float_engine_is_refused(gate: str, output: OutputFigures, words: str) -> None:
    verdict = _ask(gate, _measured(output))
    assert verdict.verdict is Verdict.REFUSED
    assert words in verdict.words


@pytest.mark.parametrize(
    ("gate", "output", "words", "bound"),
    [
        ("shapes", replace(GOOD, cosine_mean=0.89), "lowest mean cosine over 2 shapes: 0.89", 0.9),
        ("accuracy-int8", replace(GOOD, cosine_mean=0.98), "mean cosine of y 0.98 (floor 0.99)", 0.99),
        ("accuracy-int8", replace(GOOD, cosine_min=0.8), "minimum cosine of y 0.8 (floor 0.9)", 0.9),
        ("accuracy-int8", replace(GOOD, cosine_min=0.899996), "minimum cosine of y 0.899996 (floor 0.9)", 0.9),
        ("accuracy-int8", replace(GOOD, snr=9.0), "median SNR (dB) of y 9 (floor 10)", 10.0),
        ("accuracy-int8", replace(INTEGERS, equal=0.98), "equal elements of y 0.98 (floor 0.99)", 0.99),
        ("accuracy-int8", replace(GOOD, scale=0.0), "near zero, any tolerance would pass", 0.99),
    ],
)
def test_a_quantized_engine_is_refused(gate: str, output: OutputFigures, words: str, bound: float) -> None:
    verdict = _ask(gate, _measured(output), Mode.INT8)
    assert verdict.verdict is Verdict.REFUSED
    assert words in verdict.words
    assert verdict.bound == bound


@pytest.mark.parametrize(("gate", "mode"), [("accuracy-float", Mode.FP32), ("accuracy-int8", Mode.INT8)])
def test_nothing_compared_is_refused(gate: str, mode: Mode) -> None:
    verdict = _ask(gate, _measured(evaluation=()), mode)
    assert (verdict.verdict, verdict.words) == (Verdict.REFUSED, "nothing was compared")


def test_one_unmeasured_output_beside_a_good_one_is_refused() -> None:
    lost = replace(GOOD, name="z", samples=0)
    for gate, mode in (("accuracy-float", Mode.FP32), ("accuracy-int8", Mode.INT8)):
        verdict = _ask(gate, _measured(evaluation=(GOOD, lost)), mode)
        assert (verdict.verdict, verdict.words) == (Verdict.REFUSED, "z was compared on no valid sample")


@pytest.mark.parametrize("mode", [Mode.FP16, Mode.BF16, Mode.INT8, Mode.INT8_DYNAMIC, Mode.INT4_WEIGHT])
def test_whatever_is_no_float_engine_must_be_as_fast(mode: Mode) -> None:
    slow = replace(FAST, low=0.8)
    assert _ask("speed", _measured(speed=slow), mode).verdict is Verdict.REFUSED
    assert _ask("speed", _measured(speed=None), mode).verdict is Verdict.REFUSED
    assert _ask("speed", _measured(speed=slow), Mode.FP32).verdict is Verdict.SKIPPED


def test_the_worst_shape_is_named() -> None:
    cases = (CaseFigures("opt", (GOOD,)), CaseFigures("odd (batch=3)", (replace(GOOD, relative=0.5),)))
    assert "(y at odd (batch=3))" in _ask("shapes", _measured(cases=cases)).words


def test_half_precision_has_a_tolerance_of_its_own() -> None:
    measured = _measured(replace(GOOD, relative=1e-2))
    assert _ask("accuracy-float", measured, Mode.FP16).verdict is Verdict.PASSED
    assert _ask("accuracy-float", measured, Mode.BF16).verdict is Verdict.PASSED
    assert _ask("accuracy-float", measured, Mode.FP32).verdict is Verdict.REFUSED


def test_tolerances_are_the_recipes() -> None:
    recipe = _recipe(tolerances={"float": {"relative": 1e-6}})
    assert _ask("accuracy-float", recipe=recipe).verdict is Verdict.REFUSED
    recipe = _recipe(tolerances={"quantized": {"snr": 36.0}})
    assert _ask("accuracy-int8", mode=Mode.INT8, recipe=recipe).bound == 36.0


def test_a_fault_at_run_time_refuses_the_outputs() -> None:
    verdict = _ask("outputs", _measured(faults=("the engine fails at max (batch=16): out of memory",)))
    assert verdict.verdict is Verdict.REFUSED
    assert verdict.words.startswith("the engine fails at max (batch=16)")


@pytest.mark.parametrize(
    ("original", "engine", "higher", "verdict"),
    [
        (0.90, 0.895, True, Verdict.PASSED),
        (0.90, 0.95, True, Verdict.PASSED),
        (0.90, 0.88, True, Verdict.REFUSED),
        (21.0, 21.005, False, Verdict.PASSED),
        (21.0, 22.0, False, Verdict.REFUSED),
        (21.0, 20.0, False, Verdict.PASSED),
    ],
)
def test_the_metric_may_drop_so_much(original: float, engine: float, higher: bool, verdict: Verdict) -> None:
    recipe = _recipe(metric={**METRIC, "name": "top1" if higher else "perplexity", "higher_is_better": higher})
    assert _ask("metric", _measured(metric=MetricFigures(original, engine)), recipe=recipe).verdict is verdict


def test_the_original_must_reach_what_the_recipe_expects() -> None:
    measured = _measured(metric=MetricFigures(0.604, 0.6))
    good = _recipe(metric={**METRIC, "expected": 0.6035})
    bad = _recipe(metric={**METRIC, "expected": 0.7})
    assert _ask("expected-metric", measured, recipe=good).verdict is Verdict.PASSED
    assert "the recipe expects 0.7 ± 0.001" in _ask("expected-metric", measured, recipe=bad).words
    assert _ask("expected-metric", _measured(), recipe=bad).verdict is Verdict.REFUSED
    assert _ask("expected-metric").verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("low", "required", "verdict"),
    [(1.01, True, Verdict.PASSED), (0.99, True, Verdict.REFUSED), (0.5, False, Verdict.ALLOWED)],
)
def test_the_whole_interval_must_reach_the_speed(low: float, required: bool, verdict: Verdict) -> None:
    measured = _measured(speed=replace(FAST, low=low))
    recipe = _recipe(speed={"required": required})
    found = _ask("speed", measured, Mode.INT8, recipe)
    assert found.verdict is verdict
    assert "40 pairs" in found.words


def test_speed_that_was_not_measured_refuses_and_fp32_has_no_baseline() -> None:
    assert _ask("speed", _measured(speed=None), Mode.INT8).verdict is Verdict.REFUSED
    assert _ask("speed", _measured(speed=None)).verdict is Verdict.SKIPPED


def test_a_fallback_refuses() -> None:
    assert _ask("fallback", _measured(session={})).verdict is Verdict.REFUSED
    strays = {"provider": "CUDAExecutionProvider", "fallback": ["Shape on CPUExecutionProvider"]}
    assert "Shape on CPUExecutionProvider" in _ask("fallback", _measured(session=strays)).words


def test_noise_is_no_data() -> None:
    assert _ask("data", real_data=False).verdict is Verdict.REFUSED
    assert _ask("data", random_calibration=True).verdict is Verdict.REFUSED
    # What was compared on noise is still judged, so that the report tells more than one thing.
    assert _ask("accuracy-float", _measured(evaluation=()), real_data=False).verdict is Verdict.PASSED


def test_what_cannot_run_here_is_deferred_and_never_passed() -> None:
    recipe = _recipe(metric={**METRIC, "expected": 0.5})
    measured = _measured(metric=MetricFigures(0.5, 0.5), speed=None)
    verdicts = {v.gate: v for v in judge(_question(measured, Mode.INT8, recipe, deferred="no GPU here"))}
    passed = {gate for gate, verdict in verdicts.items() if verdict.verdict is Verdict.PASSED}
    assert passed == {"data", "expected-metric"}
    deferred = {gate for gate, verdict in verdicts.items() if verdict.verdict is Verdict.DEFERRED}
    assert deferred == set(GATES) - passed - {"accuracy-float"}
    assert verdicts["outputs"].words.startswith("the graph holds (every output is present")
    assert "no GPU here" in verdicts["speed"].words


def test_a_graph_that_is_already_wrong_is_refused_before_any_engine_runs() -> None:
    verdicts = {v.gate: v for v in judge(_question(_measured(replace(GOOD, relative=0.5)), deferred="no GPU here"))}
    assert verdicts["accuracy-float"].verdict is Verdict.REFUSED
    assert verdicts["accuracy-float"].words.startswith("the graph that the engine was built from: largest error 0.5")
    assert verdicts["fallback"].verdict is Verdict.DEFERRED


def test_module_passes_need_a_metric_that_bounds_their_loss() -> None:
    assert _ask("metric", recipe=_recipe(module_passes=["tie-weights"])).verdict is Verdict.REFUSED


def test_an_allowed_gate_keeps_its_figure_and_says_so() -> None:
    measured = _measured(replace(GOOD, relative=0.5))
    verdict = next(v for v in judge(_question(measured), ["accuracy-float"]) if v.gate == "accuracy-float")
    assert (verdict.verdict, verdict.figure) == (Verdict.ALLOWED, 0.5)
    assert [v.gate for v in refusals(judge(_question(measured), ["accuracy-float"]))] == ["shapes"]


def test_only_gates_can_be_allowed() -> None:
    with pytest.raises(UsageError, match=r"No gate is called 'accuracy'\. Gates: data, outputs"):
        check_allowed(["accuracy"])
