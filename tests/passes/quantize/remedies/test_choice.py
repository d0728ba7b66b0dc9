"""The choice among remedies by measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import calibrate, conv_net, images, mlp_block, run_all, sequences, snr

from enginery.engines.onnxruntime import open_model
from enginery.errors import UsageError
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.fidelity import Fidelity
from enginery.passes.quantize.remedies import DEFAULT, ENOUGH, remedies
from enginery.passes.quantize.remedies.choice import is_worth_it
from enginery.passes.quantize.remedies.sensitive import FloatSensitive
from enginery.passes.quantize.remedies.smooth import Smooth
from enginery.passes.spec import parse_pass


def quantize(model: Path, batches, passes, name: str, **options):
    output = model.with_name(f"{name}.onnx")
    result = quantize_model(
        model,
        output,
        calibrate(model, batches),
        policy=get_policy("onnxruntime-cpu"),
        options=QuantizeOptions(passes=passes, **options),
        open_model=open_model,
        batches=batches,
    )
    return result, snr(run_all(model, batches), run_all(output, batches))


@pytest.mark.parametrize(("build", "batches"), [(conv_net, images()), (mlp_block, sequences())])
def test_default_keeps_what_helps_and_says_what_it_measured(tmp_path: Path, build, batches) -> None:
    model = build(tmp_path / "model.onnx")
    _, plain = quantize(model, batches, (), "plain")
    result, chosen = quantize(model, batches, "default", "chosen")
    assert chosen > plain
    kept = [step for step in result.details["remedies"] if step["kept"]]
    assert kept
    assert all(step["after_db"] >= step["before_db"] + parse_pass(step["remedy"], remedies()).worth for step in kept)
    assert [step["remedy"].partition("{")[0] for step in result.details["remedies"]] == list(DEFAULT)


def test_by_default_only_bargains_stay_in_float_where_the_outputs_are_good(tmp_path: Path) -> None:
    result, _ = quantize(mlp_block(tmp_path / "model.onnx"), sequences(), "default", "chosen")
    floats = [step for step in result.details["remedies"] if step["remedy"].startswith("float-")]
    good = [step for step in floats if step["before_db"] >= ENOUGH]
    assert {step["remedy"].partition("{")[0] for step in good} >= {"float-sensitive", "float-ends"}
    for step in good:
        bargain = step["remedy"].startswith("float-sensitive")
        words = "no layer does 1.0% of the work or less" if bargain else "layers are kept in float below"
        assert words in step["refusals"][0]
        assert not step["kept"]


@pytest.mark.parametrize("observer", ["percentile", "entropy", "mse"])
def test_what_a_remedy_rescaled_is_counted_anew_for_an_observer_that_reads_histograms(
    tmp_path: Path, observer: str
) -> None:
    model = mlp_block(tmp_path / "model.onnx")
    result, _ = quantize(model, sequences(), "default", "chosen", observer=observer)
    rescaling = [step for step in result.details["remedies"] if step["remedy"].startswith(("split-outliers", "smooth"))]
    assert any(step["after_db"] is not None for step in rescaling)
    (named,) = quantize(model, sequences(), ("smooth{alpha=0.5}",), "named", observer=observer)[0].details["remedies"]
    assert named["changed"]


def test_named_remedies_are_applied_without_question(tmp_path: Path) -> None:
    result, _ = quantize(mlp_block(tmp_path / "model.onnx"), sequences(), ("smooth{alpha=0.5}",), "named")
    (step,) = result.details["remedies"]
    assert step["kept"]
    assert step["remedy"] == "smooth{alpha=0.5}"


def test_an_unknown_remedy_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"available: clip-activations, .*, smooth, smooth-attention, split-outliers",
    ):
        quantize(mlp_block(tmp_path / "model.onnx"), sequences(), ("smoth",), "unknown")


@pytest.mark.parametrize(
    ("remedy", "before", "after", "kept"),
    [
        pytest.param(Smooth(), (27.0, 20.0), (27.1, 20.0), True, id="the median gains enough"),
        pytest.param(Smooth(), (27.0, 20.0), (27.05, 25.0), False, id="the worst sample alone is no reason"),
        pytest.param(FloatSensitive(), (27.0, 20.0), (27.05, 22.0), True, id="but for a bargain it is"),
        pytest.param(FloatSensitive(), (27.0, 20.0), (26.9, 25.0), False, id="where the median does not fall"),
        pytest.param(FloatSensitive(), (23.0, 15.0), (23.1, 25.0), False, id="below 24 dB no layer is a bargain"),
    ],
)
def test_what_a_remedy_has_to_bring(remedy, before, after, kept: bool) -> None:
    """`before` and `after` are the median sample and the worst one."""
    found = [Fidelity(np.array([worst, median, median])) for median, worst in (before, after)]
    assert is_worth_it(remedy, *found) is kept


def test_a_gain_is_what_the_same_samples_gain() -> None:
    before, after = Fidelity(np.array([10.0, 20.0, 30.0])), Fidelity(np.array([9.9, 29.0, 24.0]))
    assert after.median - before.median == 4
    assert after.gain_over(before) == pytest.approx(-0.1)
    assert not is_worth_it(Smooth(), before, after)
