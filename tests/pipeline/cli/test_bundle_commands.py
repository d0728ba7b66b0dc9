"""verify, run and inspect on a real bundle of a tiny model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner, Result

import enginery
from enginery.errors import InputError, IntegrityError, UsageError
from enginery.pipeline.cli.main import cli


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((2, 6), np.float32))
    return path


def test_verify_names_the_digest(bundle):
    result = invoke("verify", bundle)
    assert result.exit_code == 0
    assert "digest sha256:" in result.stdout
    found = json.loads(invoke("verify", bundle, "--json").stdout)
    assert f"sha256:{found['digest']}" in result.stdout
    assert found["target"] == "onnxruntime-cpu"


def test_verify_refuses_a_changed_file(bundle):
    (bundle / "engine" / "model.onnx").write_bytes(b"changed")
    result = invoke("verify", bundle)
    assert result.exit_code == 1
    assert "engine/model.onnx" in result.stderr


def test_verify_of_nothing_is_wrong_usage(tmp_path):
    result = invoke("verify", tmp_path)
    assert result.exit_code == 2
    assert "not a bundle" in result.stderr


def test_run_writes_the_outputs(bundle, inputs, tmp_path):
    outputs = tmp_path / "y.npz"
    result = invoke(
        "run",
        bundle,
        "--inputs",
        inputs,
        "--outputs",
        outputs,
        "--threads",
        1,
        "--option",
        "spinning=false",
        "--warmup",
        1,
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outputs"] == {"y": {"dtype": "float32", "shape": [2, 3]}}
    with enginery.load(bundle) as session, np.load(outputs) as written:
        expected = session.run({"x": np.ones((2, 6), np.float32)})["y"]
        np.testing.assert_allclose(written["y"], expected, rtol=1e-6)


def test_run_names_the_range_of_a_dimension(bundle, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((9, 6), np.float32))
    result = invoke("run", bundle, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    assert result.exit_code == 1
    assert "'batch' of input 'x' is 9" in result.stderr
    assert "1 to 8" in result.stderr
    assert not (tmp_path / "y.npz").exists()


def test_load_verifies_first(bundle):
    (bundle / "report.md").write_text("changed")
    with pytest.raises(IntegrityError, match=r"report\.md"):
        enginery.load(bundle)


def test_load_checks_inputs_and_names_what_it_runs_on(bundle):
    with enginery.load(bundle, threads=1) as session:
        assert [str(spec) for spec in session.inputs] == ["x: float32[batch, 6]"]
        assert [spec.name for spec in session.outputs] == ["y"]
        assert session.describe()["threads"] == 1
        with pytest.raises(InputError, match="float64"):
            session.run({"x": np.ones((2, 6))})


def test_load_of_nothing(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        enginery.load(tmp_path / "absent")


def test_inspect_a_bundle(bundle):
    found = json.loads(invoke("inspect", bundle, "--json").stdout)
    assert found["kind"] == "bundle"
    assert found["inputs"] == ["x: float32[batch, 6]"]
    assert "engine/model.onnx" in invoke("inspect", bundle).stdout


def test_inspect_a_model(bundle):
    found = json.loads(invoke("inspect", bundle / "engine" / "model.onnx", "--json").stdout)
    assert found["kind"] == "model"
    assert found["operators"] == {"Add": 1, "MatMul": 1}
    assert found["inputs"] == ["x: float[batch, 6]"]
    assert found["weight_bytes"] == 4 * (6 * 3 + 3)


def test_inspect_of_something_else(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff\xff\xff not a model")
    assert invoke("inspect", tmp_path).exit_code == 2
    broken = invoke("inspect", tmp_path / "bad.onnx")
    assert broken.exit_code == 1
    assert "not an ONNX file" in broken.stderr


@pytest.mark.parametrize("command", [["verify"], ["run", "-i", "{inputs}", "-o", "{outputs}"]])
def test_a_bundle_needs_no_torch_and_no_onnx(bundle, inputs, tmp_path, command):
    """In a process of its own where importing either is an error."""
    import subprocess

    args = [part.format(inputs=inputs, outputs=tmp_path / "y.npz") for part in command]
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'onnx_graphsurgeon', 'scipy', 'sklearn', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "from enginery.pipeline.cli.main import cli\n"
        "cli.main(sys.argv[1:])"
    )
    run = [sys.executable, "-P", "-c", code, args[0], str(bundle), *args[1:]]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_bench_times_two_bundles_in_turns(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    args = [
        "bench",
        bundle,
        "--against",
        other,
        "--case",
        "opt",
        "--seconds",
        0.1,
        "--threads",
        1,
        "--option",
        "memory_arena=false",
    ]
    (case,) = json.loads(invoke(*args, "--json").stdout)
    assert [item["subject"] for item in case["latencies"]] == [str(bundle), str(other)]
    assert all(0 < item["low_ms"] <= item["median_ms"] <= item["high_ms"] for item in case["latencies"])
    assert case["speedup"]["low"] <= case["speedup"]["speedup"] <= case["speedup"]["high"]
    assert case["speedup"]["pairs"] >= 12


def test_bench_of_an_unknown_case(bundle):
    result = invoke("bench", bundle, "--case", "huge")
    assert result.exit_code == 2
    assert "It has: max, min, opt" in result.stderr or "It has: min, opt, max" in result.stderr


@pytest.mark.parametrize(("given", "words"), [("spinning", "not NAME=VALUE"), ("config={", "which is no YAML")])
def test_an_option_that_cannot_be_read_is_wrong_usage(bundle, given, words):
    result = invoke("run", bundle, "--selftest", "--option", given)
    assert result.exit_code == 2
    assert words in result.output
