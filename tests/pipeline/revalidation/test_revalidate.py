"""A bundle is validated where it is to run: by its golden inputs alone, or against the original with its recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_recipes import run_build, weights, write_onnx, write_recipe

from enginery.engines import get_engine
from enginery.engines.base import Arrays, Artifact, BuildSpec, Feeds
from enginery.engines.kernels import Kernel, kernel_facts
from enginery.engines.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeSession
from enginery.errors import EngineError, GateRefusedError, IntegrityError, UsageError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.manifest import Verdict
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.release.bom import BOM
from enginery.pipeline.release.sign import Signer, sign_bundle
from enginery.pipeline.report import read_report
from enginery.pipeline.revalidation import GOLDEN_GATES, revalidate


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was built where its engine cannot run; not to be changed."""
    folder = tmp_path_factory.mktemp("waiting")
    with pytest.MonkeyPatch.context() as patch:
        _defer(patch)
        patch.setattr(OnnxRuntimeCpu, "load", _never)
        return run_build(write_recipe(folder / "recipe"), folder / "build", precision="int8").bundle


@pytest.fixture
def deferred(waiting: Path, tmp_path: Path) -> Path:
    """The same bundle, with the store of its build."""
    build = waiting.parent.parent
    return shutil.copytree(build, tmp_path / "build") / waiting.relative_to(build)


def _defer(patch: pytest.MonkeyPatch) -> None:
    """Let the engine build here and not run, as TensorRT-RTX does on a machine without a GPU."""
    patch.setattr(OnnxRuntimeCpu, "cannot_run", lambda _: "no processor here")
    patch.setattr(OnnxRuntimeCpu, "_require", lambda _: None)


def _never(*_: object) -> None:
    pytest.fail("an engine was loaded where it cannot run")


def _spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxRuntimeSession._run

    def spoiled(self: OnnxRuntimeSession, feeds: Feeds) -> Arrays:
        return {name: array * np.float32(1.5) for name, array in real(self, feeds).items()}

    monkeypatch.setattr(OnnxRuntimeSession, "_run", spoiled)


def test_golden_inputs_need_the_bundle_alone(recipe: Path, tmp_path: Path) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    shutil.rmtree(recipe.parent)
    shutil.rmtree(tmp_path / "build" / ".store")
    found = revalidate(bundle)
    assert not found.full
    assert {gate.gate for gate in found.gates} == GOLDEN_GATES
    assert {gate.verdict for gate in found.gates} == {Verdict.PASSED, Verdict.SKIPPED}
    assert all(output.max_abs == 0 for case in found.against_build for output in case.outputs)


def test_the_recipe_makes_the_whole_comparison(recipe: Path, tmp_path: Path) -> None:
    bundle = run_build(recipe, tmp_path / "build", precision="int8").bundle
    before = (bundle / "manifest.json").read_bytes()
    found = revalidate(bundle, recipe=load_recipe(str(recipe)))
    assert found.full
    assert not found.completed
    assert found.measured.evaluation[0].samples == 48
    assert found.measured.speed is not None
    assert (bundle / "manifest.json").read_bytes() == before


def test_an_engine_that_was_calibrated_on_noise_stays_one(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe", data={"evaluation": {"npz": "evaluation.npz"}})
    options: dict[str, Any] = {"precision": "int8", "random_data": True, "allow": ["data", "speed"]}
    bundle = run_build(path, tmp_path / "build", **options).bundle
    found = revalidate(bundle, recipe=load_recipe(str(path)))
    verdict = next(gate for gate in found.gates if gate.gate == "data")
    assert verdict.verdict is Verdict.ALLOWED
    assert "calibrated on random data" in verdict.words


def test_an_engine_that_answers_otherwise_here_is_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    _spoil(monkeypatch)
    with pytest.raises(GateRefusedError, match=r"does not hold here\. shapes: largest relative error .* Do not deploy"):
        revalidate(bundle)


def test_a_touched_bundle_is_not_run(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    golden = bundle / "golden" / "min.original.npz"
    golden.write_bytes(golden.read_bytes()[::-1])
    monkeypatch.setattr(OnnxRuntimeCpu, "load", _never)
    with pytest.raises(IntegrityError, match=r"golden/min\.original\.npz"):
        revalidate(bundle)


def test_another_recipe_is_refused(recipe: Path, tmp_path: Path) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    write_onnx(recipe.parent / "model.onnx", weights(4))
    with pytest.raises(IntegrityError, match="Give the recipe that the bundle was built from"):
        revalidate(bundle, recipe=load_recipe(str(recipe)))


def test_a_deferred_bundle_says_what_the_graph_showed(deferred: Path) -> None:
    manifest = Bundle.open(deferred).manifest
    assert not manifest.validated
    verdicts = {gate.gate: gate for gate in manifest.gates}
    assert verdicts["accuracy-int8"].verdict is Verdict.DEFERRED
    assert "the graph holds (mean cosine of y 0.99" in verdicts["accuracy-int8"].words
    assert verdicts["speed"].verdict is Verdict.DEFERRED
    assert all(case.outputs is None for case in manifest.golden)


def test_golden_inputs_alone_do_not_complete_a_deferred_bundle(deferred: Path) -> None:
    assert not revalidate(deferred).completed
    assert not Bundle.open(deferred).manifest.validated


def test_the_recipe_completes_a_deferred_bundle(deferred: Path, recipe: Path, tmp_path: Path) -> None:
    found = revalidate(deferred, recipe=load_recipe(str(recipe)))
    assert found.completed
    verify_bundle(deferred)
    manifest = Bundle.open(deferred).manifest
    assert manifest.validated
    assert manifest.complete_with is None
    assert Verdict.DEFERRED not in {gate.verdict for gate in manifest.gates}
    assert all(case.outputs in manifest.files for case in manifest.golden)
    assert not revalidate(deferred, recipe=load_recipe(str(recipe))).completed
    # It is now what a build on this machine delivers, but for the stages that a deferred build did not run.
    whole = Bundle.open(run_build(recipe, tmp_path / "other", precision="int8").bundle).manifest
    assert {gate.gate: gate.verdict for gate in whole.gates} == {gate.gate: gate.verdict for gate in manifest.gates}


def test_the_completed_report_says_what_was_measured_here(deferred: Path, recipe: Path) -> None:
    before = read_report(deferred)
    assert "Built, not yet run" in (deferred / "report.md").read_text()
    revalidate(deferred, recipe=load_recipe(str(recipe)))
    report = read_report(deferred)
    for form in ("report.md", "report.html"):
        text = (deferred / form).read_text()
        assert "not yet run" not in text
        assert "was not run here" not in text
        assert "its gates were completed on runtime onnxruntime" in text
    assert (report.complete_with, before.complete_with is not None) == (None, True)
    assert Verdict.DEFERRED not in {gate.verdict for gate in report.gates}
    assert {latency.subject for latency in report.latencies} == {"engine", "float engine"}
    assert [stage.stage for stage in report.stages[len(before.stages) :]] == ["validate", "benchmark"]
    assert report.session["provider"] == "CPUExecutionProvider"
    # What the build found out stays.
    assert (report.passes, report.sizes, report.depth) == (before.passes, before.sizes, before.depth)
    measured = json.loads((deferred / "measurements.json").read_bytes())
    assert measured["stages"]["benchmark onnxruntime-cpu int8"]["speed"]["pairs"] > 0
    assert [gate["gate"] for gate in measured["gates"]] == ["speed"]
    card = json.loads((deferred / BOM).read_bytes())
    assert "deferred" not in json.dumps(card)


def test_what_the_loaded_engine_says_of_its_layers_goes_into_the_report(
    deferred: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = kernel_facts([Kernel("conv1 + relu1", "CaskConvolution", "integer", heavy=True, sources=("conv1",))])
    monkeypatch.setattr(OnnxRuntimeSession, "kernels", lambda _: facts)
    revalidate(deferred, recipe=load_recipe(str(recipe)))
    assert "| `conv1 + relu1` | CaskConvolution | integer | yes | `conv1` |" in (deferred / "report.md").read_text()


def test_a_signed_bundle_is_not_left_unsigned_unasked(deferred: Path, recipe: Path, keys: Path) -> None:
    sign_bundle(deferred, keys / "ours.pem")
    with pytest.raises(UsageError, match=r"is signed\. .*--key KEY.* --drop-signature"):
        revalidate(deferred, recipe=load_recipe(str(recipe)))
    verify_bundle(deferred, public_key=keys / "ours.pub")
    assert not revalidate(deferred).completed, "golden inputs alone change nothing and need no key"
    assert revalidate(deferred, recipe=load_recipe(str(recipe)), drop_signature=True).completed
    assert not verify_bundle(deferred).signed


def test_a_completed_bundle_is_signed_anew(deferred: Path, recipe: Path, keys: Path) -> None:
    sign_bundle(deferred, keys / "ours.pem")
    engine = {name: record for name, record in Bundle.open(deferred).manifest.files.items() if "engine/" in name}
    found = revalidate(deferred, recipe=load_recipe(str(recipe)), signer=Signer(keys / "ours.pem", builder="urn:gpu"))
    assert (found.completed, found.signed) == (True, True)
    verified = verify_bundle(deferred, public_key=keys / "ours.pub")
    assert verified.manifest.validated
    assert engine.items() <= verified.manifest.files.items()
    assert "model.sig" in {file.name for file in deferred.iterdir()}
    again = revalidate(deferred, recipe=load_recipe(str(recipe)), signer=Signer(keys / "ours.pem"))
    assert (again.completed, again.signed) == (False, False)


def test_nobody_signs_what_another_vouched_for_unseen(deferred: Path, recipe: Path, keys: Path) -> None:
    sign_bundle(deferred, keys / "theirs.pem")
    ours = Signer(keys / "ours.pem")
    with pytest.raises(IntegrityError, match=r"ours\.pem did not make.* --public-key KEY"):
        revalidate(deferred, recipe=load_recipe(str(recipe)), signer=ours)
    theirs = keys / "theirs.pub"
    assert revalidate(deferred, recipe=load_recipe(str(recipe)), signer=ours, public_key=theirs).signed
    verify_bundle(deferred, public_key=keys / "ours.pub")


def test_a_key_that_cannot_sign_is_noticed_before_anything_runs(
    deferred: Path, recipe: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeCpu, "load", _never)
    with pytest.raises(UsageError, match="cannot sign"):
        revalidate(deferred, recipe=load_recipe(str(recipe)), signer=Signer(keys / "ours.pub"))


def test_a_deferred_engine_that_fails_here_stays_deferred(
    deferred: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch)
    with pytest.raises(GateRefusedError):
        revalidate(deferred, recipe=load_recipe(str(recipe)))
    verify_bundle(deferred)
    assert not Bundle.open(deferred).manifest.validated


def test_a_graph_that_is_already_wrong_is_not_deferred(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe.read_text() + "tolerances: {quantized: {cosine: 1.0}}\n"
    recipe.write_text(text)
    _defer(monkeypatch)
    with pytest.raises(
        GateRefusedError, match=r"Gate accuracy-int8 refused .* the graph that the engine was built from"
    ):
        run_build(recipe, tmp_path / "build", precision="int8")


def test_where_the_engine_cannot_run_nothing_is_said(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = run_build(recipe, tmp_path / "build").bundle
    monkeypatch.setattr(OnnxRuntimeCpu, "cannot_run", lambda _: "no processor here")
    with pytest.raises(EngineError, match="cannot be run here: no processor here"):
        revalidate(bundle)


def test_a_bundle_needs_its_own_target(recipe: Path, tmp_path: Path) -> None:
    # The artifact is loaded as it stands in the bundle, with the options that it was built with.
    recipe.write_text(recipe.read_text() + "engine: {onnxruntime-cpu: {threads: 1}}\n")
    bundle = Bundle.open(run_build(recipe, tmp_path / "build").bundle)
    artifact: Artifact = bundle.artifact
    spec: BuildSpec = bundle.spec
    with OnnxRuntimeCpu().load(artifact, spec) as session:
        assert session.describe()["threads"] == 1


@pytest.mark.gpu
def test_a_plan_that_was_built_without_a_gpu_is_completed_on_one(recipe: Path, tmp_path: Path, keys: Path) -> None:
    engine = get_engine("tensorrt-rtx")
    if reason := engine.cannot_run():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine), "cannot_run", lambda _: "no GPU here")
        bundle = run_build(recipe, tmp_path / "build", target="tensorrt-rtx", precision="int8").bundle
    sign_bundle(bundle, keys / "ours.pem")
    assert revalidate(bundle, recipe=load_recipe(str(recipe)), signer=Signer(keys / "ours.pem")).signed
    assert verify_bundle(bundle, public_key=keys / "ours.pub").manifest.validated
    report = read_report(bundle)
    assert report.kernels["heavy"]["integer"] == 2
    assert "device" in report.session
