"""Opening a bundle for use: demands, self-test, warm-up, threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner

import enginery
from enginery.engines.onnxruntime import OnnxRuntimeSession
from enginery.errors import EngineError, InputError, IntegrityError, UsageError
from enginery.pipeline.bundle import file_records, write_sums
from enginery.pipeline.cli.main import cli
from enginery.pipeline.files import pretty_json
from enginery.pipeline.npz import read_npz, write_npz


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("session") / "bundle")


def with_golden(folder, change, **fields):
    """A bundle whose recorded outputs are others than its engine gives; whole by all digests."""
    bundle = make_bundle(folder, **fields)
    path = bundle / "golden/opt.outputs.npz"
    write_npz(path, change(read_npz(path)))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"] = {name: r.model_dump() for name, r in file_records(bundle, list(manifest["files"])).items()}
    (bundle / "manifest.json").write_text(pretty_json(manifest))
    write_sums(bundle)
    return bundle


def test_the_self_test_passes_on_the_machine_that_built(bundle):
    with enginery.load(bundle, selftest=True) as session:
        assert session.describe()["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("precision", "factor", "passes"),
    [
        ("fp32", 1 + 1e-6, True),
        ("fp32", 1 + 1e-3, False),
        ("fp16", 1 + 1e-3, True),
        ("fp16", 1.1, False),
        ("int8", 1.01, True),
        ("int8", -1.0, False),
    ],
)
def test_the_self_test_knows_what_another_processor_explains(tmp_path, precision, factor, passes):
    bundle = with_golden(tmp_path / "b", lambda arrays: {"y": arrays["y"] * np.float32(factor)}, precision=precision)
    if passes:
        enginery.load(bundle, selftest=True).close()
        return
    with pytest.raises(EngineError, match=r"does not answer here .* Output y: largest error"):
        enginery.load(bundle, selftest=True)


def test_a_self_test_without_golden_outputs_proves_nothing(tmp_path):
    with pytest.raises(EngineError, match="no golden outputs"):
        enginery.load(make_bundle(tmp_path / "b", golden=()), selftest=True)


def test_a_provider_that_is_not_in_use_is_refused(bundle):
    enginery.load(bundle, provider="CPUExecutionProvider").close()
    with pytest.raises(EngineError, match="CUDAExecutionProvider was demanded; the engine runs on CPU"):
        enginery.load(bundle, provider="CUDAExecutionProvider")


def test_warm_up_runs_every_golden_case(bundle, monkeypatch):
    sizes = []
    real = OnnxRuntimeSession._run
    monkeypatch.setattr(
        OnnxRuntimeSession, "_run", lambda self, feeds: sizes.append(len(feeds["x"])) or real(self, feeds)
    )
    enginery.load(bundle, warmup=2).close()
    assert sizes == [1, 1, 4, 4, 8, 8]


def test_threads_reach_the_runtime(bundle):
    with enginery.load(bundle, threads=1) as session:
        assert session.describe()["threads"] == 1


def test_options_are_given_anew_at_run_time(bundle):
    with enginery.load(bundle, options={"spinning": False, "disabled_optimizers": []}, threads=1) as session:
        assert session.run({"x": np.ones((1, 6), np.float32)})["y"].shape[0] == 1
    with pytest.raises(UsageError, match="`spinning` of onnxruntime-cpu is 'no'"):
        enginery.load(bundle, options={"spinning": "no"})


def test_an_option_that_needs_a_new_build_is_refused_with_those_that_do_not(bundle):
    with pytest.raises(UsageError, match=r"'provider' of onnxruntime-cpu cannot be changed at run time.*spinning"):
        enginery.load(bundle, options={"provider": {}})


def test_many_threads_share_a_session(bundle):
    inputs = [np.random.default_rng(seed).standard_normal((1 + seed % 8, 6)).astype(np.float32) for seed in range(64)]
    with enginery.load(bundle, threads=1) as session:
        alone = [session.run({"x": x})["y"] for x in inputs]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda x: session.run({"x": x})["y"], inputs))
    for expected, actual in zip(alone, together, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"y": np.zeros((1, 6), np.float32)},
        {"x": [[0.0] * 6]},
        {"x": np.zeros((1, 6), np.float64)},
        {"x": np.zeros(6, np.float32)},
        {"x": np.zeros((1, 7), np.float32)},
        {"x": np.zeros((9, 6), np.float32)},
        {"x": np.zeros((0, 6), np.float32)},
    ],
    ids=["missing", "unknown", "list", "dtype", "rank", "fixed", "above", "below"],
)
def test_inputs_are_checked_before_the_runtime_sees_them(bundle, feeds, monkeypatch):
    with enginery.load(bundle) as session:
        monkeypatch.setattr(OnnxRuntimeSession, "_run", lambda *_: pytest.fail("the runtime saw it"))
        with pytest.raises(InputError):
            session.run(feeds)


def test_the_environment_demands_a_signature_of_what_is_loaded(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINERY_PUBLIC_KEY", str(tmp_path / "key.pub"))
    with pytest.raises(IntegrityError, match="is not signed"):
        enginery.load(bundle)


def test_the_command_runs_the_self_test_alone(bundle):
    result = CliRunner().invoke(cli, ["run", str(bundle), "--selftest"])
    assert result.exit_code == 0, result.output
    assert "self-test passed" in result.stdout


def test_the_command_reports_a_failed_self_test(tmp_path):
    bundle = with_golden(tmp_path / "b", lambda arrays: {"y": -arrays["y"]})
    result = CliRunner().invoke(cli, ["run", str(bundle), "--selftest", "--json"])
    assert result.exit_code == 1
    assert "does not answer here" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["--inputs", "x.npz"], ["--outputs", "y.npz"], ["--selftest", "-i", "x.npz"]]
)
def test_the_command_needs_something_to_do(bundle, arguments):
    result = CliRunner().invoke(cli, ["run", str(bundle), *arguments])
    assert result.exit_code == 2
    assert "Give --inputs and --outputs, or --selftest" in result.stderr
