"""`enginery validate`: golden inputs alone, the whole comparison with the recipe, and completing a deferred bundle."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_recipes import run_build

from enginery.engines.onnxruntime import OnnxRuntimeCpu
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.manifest import Verdict
from enginery.pipeline.cli.main import cli


@pytest.fixture
def bundle(recipe, tmp_path) -> Path:
    return run_build(recipe, tmp_path / "build").bundle


@pytest.fixture
def deferred(recipe, tmp_path, monkeypatch) -> Path:
    """A bundle built where its engine cannot run."""
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeCpu, "cannot_run", lambda self: "no such device here")
        patch.setattr(OnnxRuntimeCpu, "_require", lambda self: None)
        return run_build(recipe, tmp_path / "build").bundle


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_golden_inputs_need_the_bundle_alone(bundle, recipe, tmp_path):
    shutil.rmtree(recipe.parent)
    shutil.rmtree(tmp_path / "build" / ".store")
    result = invoke("validate", bundle)
    assert result.exit_code == 0, result.output
    assert "passed  shapes:" in result.stdout
    assert "golden  opt: y is what the build recorded, bit for bit" in result.stdout
    found = json.loads(invoke("validate", bundle, "--json").stdout)
    assert (found["full"], found["completed"]) == (False, False)
    assert {"min", "opt"} <= set(found["against_build"])


def test_golden_inputs_need_no_torch_and_no_onnx(bundle):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'onnx_graphsurgeon', 'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from enginery.pipeline.cli.main import cli\n"
        "cli.main(sys.argv[1:])"
    )
    run = [sys.executable, "-P", "-c", code, "validate", str(bundle)]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_recipe_brings_every_gate(bundle, recipe):
    found = json.loads(invoke("validate", bundle, "--recipe", recipe, "--json").stdout)
    assert found["full"] is True
    verdicts = {gate["gate"]: gate["verdict"] for gate in found["gates"]}
    assert verdicts["accuracy-float"] == verdicts["data"] == "passed"


def test_a_changed_bundle_is_not_run(bundle):
    (bundle / "report.md").write_text("changed")
    result = invoke("validate", bundle)
    assert result.exit_code == 1
    assert "report.md" in result.stderr


def test_a_deferred_bundle_is_completed_with_its_recipe(deferred, recipe):
    before = Bundle.open(deferred).manifest
    assert not before.validated
    assert before.complete_with == "enginery validate onnxruntime-cpu-fp32 --recipe tiny"
    waiting = invoke("validate", deferred)
    assert waiting.exit_code == 0, waiting.output
    assert "still deferred" in waiting.stdout
    assert not Bundle.open(deferred).manifest.validated, "golden inputs alone complete nothing"
    result = invoke("validate", deferred, "--recipe", recipe)
    assert result.exit_code == 0, result.output
    assert f"completed  {deferred}" in result.stdout
    after = verify_bundle(deferred).manifest
    assert after.validated
    assert Verdict.DEFERRED not in {gate.verdict for gate in after.gates}


def test_an_engine_that_cannot_run_here(deferred, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeCpu, "cannot_run", lambda self: "no such device here")
    result = invoke("validate", deferred)
    assert result.exit_code == 1
    assert "no such device here" in result.stderr


def test_a_signed_bundle_is_completed_and_signed_anew(deferred, recipe, keys):
    assert invoke("sign", deferred, "--key", keys / "ours.pem").exit_code == 0
    refused = invoke("validate", deferred, "--recipe", recipe)
    assert refused.exit_code == 2
    assert "--drop-signature" in refused.stderr
    result = invoke("validate", deferred, "--recipe", recipe, "--key", keys / "ours.pem")
    assert result.exit_code == 0, result.output
    assert f"completed  {deferred}, and signed anew" in result.stdout
    verified = invoke("verify", deferred, "--public-key", keys / "ours.pub")
    assert verified.exit_code == 0, verified.output
    assert "not run" not in verified.stdout


def test_a_key_without_a_recipe_has_nothing_to_sign(deferred, keys):
    result = invoke("validate", deferred, "--key", keys / "ours.pem")
    assert result.exit_code == 2
    assert "enginery sign" in result.stderr
