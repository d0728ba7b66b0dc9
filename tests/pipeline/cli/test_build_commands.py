"""build and the single stages, on a recipe that builds in about a second."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_recipes import write_recipe

import enginery
from enginery.errors import GateRefusedError
from enginery.passes.calibration import Statistics
from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.cli.main import cli

BUNDLE = Path("tiny") / "onnxruntime-cpu-fp32"
TOO_STRICT = {"precision": "int8", "tolerances": {"quantized": {"snr": 199}}}
REFUSED = Path("tiny") / "onnxruntime-cpu-int8"


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "build"


def test_build_prints_the_verdicts_and_where_the_bundle_lies(recipe, output):
    result = invoke("build", recipe, "-o", output)
    assert result.exit_code == 0, result.output
    assert "passed  accuracy-float:" in result.stdout
    assert f"bundle  {output / BUNDLE}\n" in result.stdout
    assert "stage" not in result.stderr
    verify_bundle(output / BUNDLE)


def test_build_again_reuses_everything_and_says_why(recipe, output):
    assert "compile (onnxruntime-cpu fp32): first build" in invoke("build", recipe, "-o", output, "--explain").stderr
    again = invoke("build", recipe, "-o", output, "--explain")
    assert "reused  compile (onnxruntime-cpu fp32): nothing changed" in again.stderr
    assert f"{output / BUNDLE} (unchanged)" in again.stdout


def test_quiet_prints_the_bundle_alone(recipe, output):
    result = invoke("build", recipe, "-o", output, "-q")
    assert (result.stdout, result.stderr) == (f"{output / BUNDLE}\n", "")


def test_json_for_machines(recipe, output):
    found = json.loads(invoke("build", recipe, "-o", output, "--json").stdout)
    assert found["bundle"] == str(output / BUNDLE)
    assert found["validated"] is True
    assert {"gate", "verdict", "words", "figure", "bound"} == set(found["gates"][0])


def test_a_refusal_names_gate_figure_and_bound(tmp_path, output):
    recipe = write_recipe(tmp_path / "strict", **TOO_STRICT)
    result = invoke("build", recipe, "-o", output, "--json")
    assert result.exit_code == 1
    assert "(floor 199)" in result.stderr
    found = json.loads(result.stdout)
    assert found["bundle"] is None
    assert "refused" in {gate["verdict"] for gate in found["gates"]}
    left = {path.name for path in (output / REFUSED).iterdir()}
    assert {"report.json", "report.md"} <= left
    assert all(name.startswith("report.") for name in left), "a refused build leaves its report alone"
    assert invoke("verify", output / REFUSED).exit_code == 2


def test_a_refusal_shows_what_passed_too(tmp_path, output):
    result = invoke("build", write_recipe(tmp_path / "strict", **TOO_STRICT), "-o", output)
    assert result.exit_code == 1
    assert "  passed  outputs: " in result.stdout
    assert " refused  accuracy-int8: " in result.stdout
    assert "bundle" not in result.stdout
    quiet = invoke("build", tmp_path / "strict" / "recipe.yaml", "-o", output, "-q")
    assert (quiet.exit_code, quiet.stdout) == (1, "")


def test_a_gate_that_is_allowed(tmp_path, output):
    recipe = write_recipe(tmp_path / "strict", **TOO_STRICT)
    result = invoke("build", recipe, "-o", output, "--allow", "accuracy-int8")
    assert result.exit_code == 0, result.output
    assert " allowed  accuracy-int8:" in result.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--allow", "speeed"], "No gate is called 'speeed'"),
        (["--target", "onnxruntime"], "onnxruntime-cpu"),
        (["--precision", "int9"], "int9"),
    ],
)
def test_wrong_usage(recipe, output, args, words):
    result = invoke("build", recipe, "-o", output, *args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_recipe_with_a_typo(tmp_path, output):
    recipe = write_recipe(tmp_path / "typo", presicion="int8")
    result = invoke("build", recipe, "-o", output)
    assert result.exit_code == 2
    assert "Did you mean `precision`?" in result.stderr
    assert "line" in result.stderr


def test_an_unknown_recipe(output):
    result = invoke("build", "minilmm", "-o", output)
    assert result.exit_code == 2
    assert "'minilm'" in result.stderr


@pytest.mark.parametrize(
    ("args", "file"),
    [
        (["export"], "model/model.onnx"),
        (["optimize"], "model/model.onnx"),
        (["calibrate"], "statistics/statistics.json"),
        (["calibrate", "--memory-budget", "64"], "statistics/statistics.json"),
        (["quantize", "--precision", "int8"], "model/model.onnx"),
        (["compile", "--precision", "int8"], "engine/model.onnx"),
    ],
    ids=" ".join,
)
def test_a_single_stage_prints_its_folder(recipe, output, args, file):
    result = invoke(*args, recipe, "-o", output)
    assert result.exit_code == 0, result.output
    assert (Path(result.stdout.strip()) / file).is_file()
    found = json.loads(invoke(*args, recipe, "-o", output, "--json").stdout)
    assert found["reused"] is True
    assert found["stage"] == args[0]
    assert file in found["files"]


def test_a_result_is_copied_out(recipe, output, tmp_path):
    to = tmp_path / "out" / "exported"
    result = invoke("export", recipe, "-o", output, "--to", to)
    assert result.stdout == f"{to}\n"
    assert (to / "model" / "model.onnx").is_file()
    assert [path.name for path in to.parent.iterdir()] == ["exported"], "nothing temporary is left"
    again = invoke("export", recipe, "-o", output, "--to", to)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_statistics_are_inspected_and_compared(recipe, output, tmp_path):
    invoke("calibrate", recipe, "-o", output, "--to", tmp_path / "first")
    first = tmp_path / "first"
    found = json.loads(invoke("inspect", first, "--json").stdout)
    assert found["kind"] == "statistics"
    assert found["samples"] == 64
    assert "samples: 64" in invoke("inspect", first).stdout
    same = invoke("diff", first, first)
    assert same.exit_code == 0
    assert "No range" in same.stdout
    halved = write_recipe(
        tmp_path / "halved", data={"calibration": {"npz": "calibration.npz", "samples": 2}, "evaluation": None}
    )
    moved = invoke("calibrate", halved, "-o", output, "--to", tmp_path / "second")
    assert moved.exit_code == 0, moved.output
    difference = invoke("diff", first, tmp_path / "second" / "statistics", "--json")
    assert difference.exit_code == 1
    assert "of different graphs" not in invoke("diff", first, tmp_path / "second").stdout
    other = Statistics("0" * 64, (), 2, dict(Statistics.load(first).tensors))
    other.save(tmp_path / "other")
    assert "of different graphs (000000000000" in invoke("diff", tmp_path / "other", first).stdout
    ratios = [change["ratio"] for change in json.loads(difference.stdout)["moved"]]
    assert ratios == sorted(ratios, reverse=True)
    assert len(Statistics.load(first).tensors) >= len(ratios) > 0


def test_which_nodes_lose_the_accuracy(recipe, output):
    found = json.loads(invoke("quantize", recipe, "-o", output, "--sensitivity", "--json").stdout)
    assert found["nodes"]
    assert all({"node", "alone", "without"} == set(each) for each in found["nodes"])
    text = invoke("quantize", recipe, "-o", output, "--sensitivity").stdout
    assert f"at {found['all_quantized_db']:.1f} dB" in text
    assert all(each["node"] in text for each in found["nodes"])
    assert ("keep_float:" in text) == (found["nodes"][0]["without"] >= found["all_quantized_db"] + 1)
    both = invoke("quantize", recipe, "-o", output, "--sensitivity", "--advise")
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)


def test_calibration_without_data(tmp_path, output):
    recipe = write_recipe(tmp_path / "bare", data={"evaluation": {"npz": "evaluation.npz"}})
    refused = invoke("calibrate", recipe, "-o", output)
    assert refused.exit_code == 1
    assert "data.calibration" in refused.stderr
    random = invoke("calibrate", recipe, "-o", output, "--random-data")
    assert random.exit_code == 0
    assert "random data, for a smoke test" in random.stderr
    built = invoke("build", recipe, "-o", output, "--precision", "int8", "--random-data")
    assert built.exit_code == 1
    assert "calibrated on random data" in built.stderr


def test_the_python_api_builds_and_loads(recipe, output):
    bundle = enginery.build(recipe, output=output)
    assert bundle == output / BUNDLE
    with enginery.load(bundle) as session:
        assert [spec.name for spec in session.inputs] == ["x"]


def test_the_python_api_raises_what_the_command_prints(tmp_path, output):
    recipe = write_recipe(tmp_path / "strict", **TOO_STRICT)
    with pytest.raises(GateRefusedError, match="floor 199"):
        enginery.build(recipe, output=output)


INTERRUPTED = """
import os, signal

def batches():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
    yield {}
"""


def test_interrupted_in_a_stage(tmp_path, output):
    """Ctrl-C while the user's own code runs: one line, 130, nothing half-written, and the next build goes on."""
    recipe = write_recipe(tmp_path / "slow", data={"evaluation": {"python": "data.py:batches"}})
    data = recipe.parent / "data.py"
    # Whoever runs the tests in the background hands down an ignored SIGINT; a terminal does not.
    data.write_text(INTERRUPTED)
    command = [sys.executable, "-P", "-m", "enginery", "build", str(recipe), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 130, result.stderr
    assert result.stderr.count("\n") == 1
    assert "Interrupted" in result.stderr
    assert not (output / BUNDLE).exists()
    assert invoke("build", write_recipe(tmp_path / "slow"), "-o", output).exit_code == 0
