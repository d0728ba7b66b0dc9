"""Real builds with tensorrt_rtx, which needs no GPU for them; what runs is marked `gpu`."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys

import engine_models as models
import numpy as np
import pytest

from enginery.engines import get_engine
from enginery.engines.base import Artifact, BuildSpec, DimRange, TensorSpec
from enginery.engines.cuda.driver import Device, devices
from enginery.engines.onnxruntime import open_model
from enginery.engines.tensorrt import trust
from enginery.engines.tensorrt.engine import TensorRTRTX, timing_cache_file
from enginery.engines.tensorrt.options import BuildOptions, settings_of
from enginery.engines.tensorrt.process import PlanBuilder, Request
from enginery.errors import EngineError, InputError, InvalidModelError, UntrustedSourceError, UsageError

trt = pytest.importorskip("tensorrt_rtx")

NO_GPU = pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def build(model, tmp_path, spec=models.SPEC, name="engine", **save):
    source, folder = tmp_path / f"{name}-source", tmp_path / name
    source.mkdir()
    folder.mkdir()
    return get_engine("tensorrt-rtx").build(models.save(model, source, **save), folder, spec)


def digest(artifact):
    return hashlib.sha256(artifact.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("external", [False, True])
def test_a_plan_is_built_without_a_gpu(tmp_path, external):
    artifact = build(models.linear(), tmp_path, external=external)
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["build.log", "engine.plan"]
    assert artifact.facts["version"] == artifact.options["version"] == trt.__version__
    assert artifact.facts["plan"]["size"] == artifact.path.stat().st_size
    trust.require(artifact.path)


def test_the_layers_say_where_int8_is_used(tmp_path):
    kernels = build(models.quantized_linear(), tmp_path).facts["kernels"]
    assert kernels["heavy"]["integer"] == 1
    (product,) = (node for node in kernels["nodes"] if node["heavy"])
    assert {"product", "weight"} <= set(product["sources"])
    floats = build(models.linear(), tmp_path, name="float").facts["kernels"]["heavy"]
    assert (floats["integer"], floats["float"]) == (0, 1)


def convolution():
    """Three dynamic dimensions, whose symbols the builder orders by address when it may."""
    signature = "(float[n, 16, h, w] x) => (float[n, 32, a, b] y)"
    model = models.parse(
        "{ c = Conv<pads=[1,1,1,1]>(x, k)  r = Relu(c)  y = MaxPool<kernel_shape=[2,2]>(r) }", signature=signature
    )
    kernel = np.random.default_rng(0).standard_normal((32, 16, 3, 3)).astype(np.float32)
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("n", 16, "h", "w")),),
        (TensorSpec("y", "float32", ("n", 32, "a", "b")),),
        {"n": DimRange(1, 4, 8), "h": DimRange(8, 16, 32), "w": DimRange(8, 16, 32)},
    )
    return models.add(model, k=kernel), spec


def test_equal_builds_give_equal_bytes(tmp_path, monkeypatch):
    """Whatever stands in the environment, whose length moves the addresses of a process's first thread."""
    model, spec = convolution()
    plans, logs = set(), set()
    for number in range(6):
        monkeypatch.setenv("PADDING", "x" * 1370 * number)
        artifact = build(model, tmp_path, spec, name="e" * (number + 1))
        plans.add(digest(artifact))
        logs.add((artifact.folder / "build.log").read_bytes())
    assert len(plans) == 1
    assert len(logs) == 1


def test_another_process_gives_the_same_bytes(tmp_path):
    source = tmp_path / "elsewhere"
    source.mkdir()
    path = models.save(models.linear(), source)
    code = f"""
import hashlib, tempfile
from pathlib import Path
from enginery.engines import BuildSpec, DimRange, TensorSpec, get_engine
spec = BuildSpec((TensorSpec("x", "float32", ("batch", 16)),), (TensorSpec("y", "float32", ("batch", 8)),),
                 {{"batch": DimRange(1, 4, 32)}})
with tempfile.TemporaryDirectory() as folder:
    artifact = get_engine("tensorrt-rtx").build(Path({str(path)!r}), Path(folder), spec)
    print(hashlib.sha256(artifact.path.read_bytes()).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PADDING": "x" * 3000}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == digest(build(models.linear(), tmp_path))


def test_several_profiles_are_built_into_one_plan(tmp_path):
    one = build(models.linear(), tmp_path)
    two = build(
        models.linear(), tmp_path, models.spec(profiles=[{"batch": [1, 1, 1]}, {"batch": [2, 16, 32]}]), name="two"
    )
    assert two.facts["plan"]["size"] > 1.5 * one.facts["plan"]["size"]
    assert two.options["profiles"] == [{"batch": [1, 1, 1]}, {"batch": [2, 16, 32]}]


def test_a_fixed_shape_needs_no_profile(tmp_path):
    model = models.add(
        models.parse("{ y = MatMul(x, w) }", signature="(float[4, 16] x) => (float[4, 8] y)"), w=models.WEIGHT
    )
    spec = BuildSpec((TensorSpec("x", "float32", (4, 16)),), (TensorSpec("y", "float32", (4, 8)),), {})
    assert build(model, tmp_path, spec).facts["plan"]["capabilities"]


@pytest.mark.parametrize("option", [{"tf32": True}, {"weight_streaming": True}, {"verbosity": "none"}])
def test_options_reach_the_builder(tmp_path, option):
    model, spec = convolution()
    plain = build(model, tmp_path, spec)
    other = build(model, tmp_path, BuildSpec(spec.inputs, spec.outputs, spec.dims, option), name="other")
    assert digest(plain) != digest(other)


@NO_GPU
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"refit": True}, "needs an NVIDIA GPU"),
        ({"strip_plan": True}, "needs an NVIDIA GPU"),
        ({"compute_capabilities": ["current"]}, "needs an NVIDIA GPU"),
        ({"compute_capabilities": ["current"], "device": 1}, "GPU 1 was asked for with `device`.*no NVIDIA driver"),
        ({"version_compatible": True}, "needs the lean runtime library"),
        ({"workspace": 1 << 20}, "raise `workspace`"),
        ({"compute_capabilities": ["7.5"]}, "node 'product'.*leave 7.5 out"),
        ({"optimization_level": 3}, "does not support `optimization_level`"),
    ],
)
def test_what_cannot_be_built_here_is_said_with_the_remedy(tmp_path, option, message):
    with pytest.raises(EngineError, match=message):
        build(models.linear(), tmp_path, models.spec(**option))


def test_the_parsers_refusal_names_node_reason_and_remedy(tmp_path):
    with pytest.raises(EngineError) as error:
        build(models.quantized_linear(zero_point=3), tmp_path)
    assert "model.onnx: tensorrt-rtx" in str(error.value)
    assert "node 'quantize' (QuantizeLinear)" in str(error.value)
    assert "Non-zero zero point" in str(error.value)
    assert "enginery lint" in str(error.value)


def test_the_absence_of_a_driver_hides_no_other_reason(tmp_path):
    model = models.parse("{ h = MatMul(x, w)  c = DequantizeLinear(b, s, z)  y = Add(h, c) }")
    models.add(model, w=models.WEIGHT, b=np.zeros(8, np.int32), s=np.float32(0.1), z=np.int32(0))
    with pytest.raises(EngineError) as error:
        build(models.name_nodes(model, "product", "bias", "sum"), tmp_path)
    assert "node 'bias' (DequantizeLinear)" in str(error.value)
    assert "keep biases in float" in str(error.value)
    assert "driver" not in str(error.value)


def test_an_unknown_operator_is_named(tmp_path):
    model = models.parse("{ h = MatMul(x, w)  y = com.microsoft.QuickGelu(h) }")
    with pytest.raises(EngineError, match=r"node 'gelu' \(QuickGelu\).*enginery lint"):
        build(models.name_nodes(models.add(model, w=models.WEIGHT), "product", "gelu"), tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            BuildSpec((TensorSpec("z", "float32", ("batch", 16)),), models.SPEC.outputs, models.SPEC.dims),
            r"inputs \['x'\]; declared are \['z'\]",
        ),
        (
            BuildSpec(models.SPEC.inputs, (TensorSpec("y", "float32", ("batch",)),), models.SPEC.dims),
            "output 'y' has the shape",
        ),
    ],
)
def test_the_declared_signature_must_be_the_models(tmp_path, spec, message):
    with pytest.raises(EngineError, match=message):
        build(models.linear(), tmp_path, spec)


def test_an_input_used_as_a_shape_is_refused(tmp_path):
    signature = "(float[batch, 16] x, int64[1] n) => (float[m] y)"
    model = models.parse("{ y = Reshape(x, n) }", signature=signature)
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("batch", 16)), TensorSpec("n", "int64", (1,))),
        (TensorSpec("y", "float32", ("m",)),),
        models.SPEC.dims,
    )
    with pytest.raises(EngineError, match="'n' is used as a shape"):
        build(model, tmp_path, spec)


def test_hostile_files_never_reach_the_parser(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    path = models.save(models.linear(), source, external=True)
    os.link(source / "weights.bin", tmp_path / "second-name")
    (tmp_path / "engine").mkdir()
    with pytest.raises(InvalidModelError, match="hard link"):
        get_engine("tensorrt-rtx").build(path, tmp_path / "engine", models.SPEC)


def test_the_log_of_a_failed_build_is_kept(tmp_path):
    with pytest.raises(EngineError):
        build(models.quantized_linear(zero_point=3), tmp_path)
    assert "Non-zero zero point" in (tmp_path / "engine" / "build.log").read_text()


def test_a_crash_of_the_builder_is_an_error(tmp_path, monkeypatch):
    crash = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    monkeypatch.setattr("enginery.engines.tensorrt.process.BUILDER", (sys.executable, "-c", crash))
    with pytest.raises(EngineError, match="the builder was killed by SIGSEGV"):
        build(models.linear(), tmp_path)


def test_a_timing_cache_belongs_to_a_version_and_a_device(tmp_path):
    one = timing_cache_file(tmp_path, "10.13.2.6", Device("NVIDIA L4", "8.9"))
    assert one.name == "tensorrt-10.13.2.6-nvidia-l4-8.9.timing"
    assert one != timing_cache_file(tmp_path, "10.13.2.6", Device("NVIDIA L40S", "8.9"))
    assert one != timing_cache_file(tmp_path, "10.14.0.1", Device("NVIDIA L4", "8.9"))


def test_a_timing_cache_is_written_whole_and_read_again(tmp_path):
    """TensorRT-RTX times nothing, and takes and gives the cache that full TensorRT fills."""
    model = models.save(models.linear(), tmp_path)
    cache = tmp_path / "cache" / "one.timing"
    cache.parent.mkdir()
    request = Request(
        model.name, {"x": 2}, {"y": 2}, [{"x": [[1, 16], [4, 16], [32, 16]]}],
        settings=settings_of(trt, BuildOptions(), "tensorrt-rtx"), timing_cache=str(cache),
    )  # fmt: skip
    for name in ("first", "second"):
        with PlanBuilder("tensorrt_rtx", tmp_path, tmp_path / name) as builder:
            assert builder.build(request).error is None
        assert [path.name for path in cache.parent.iterdir()] == ["one.timing"]
        assert cache.stat().st_size > 0


def test_a_timing_cache_that_cannot_be_written_is_a_warning(tmp_path):
    model = models.save(models.linear(), tmp_path)
    request = Request(
        model.name, {"x": 2}, {"y": 2}, [{"x": [[1, 16], [4, 16], [32, 16]]}],
        settings=settings_of(trt, BuildOptions(), "tensorrt-rtx"), timing_cache=str(tmp_path / "gone" / "cache"),
    )  # fmt: skip
    with PlanBuilder("tensorrt_rtx", tmp_path, tmp_path / "plan") as builder:
        answer = builder.build(request)
    assert answer.error is None
    assert any(level == "WARNING" and "cache could not be written" in message for level, message in answer.log)


class TestFullTensorRT:
    """Its path through a build, with the module of TensorRT-RTX in its place, which takes the same calls."""

    @pytest.fixture(autouse=True)
    def stand_in(self, tmp_path, monkeypatch):
        (tmp_path / "tensorrt.py").write_text("from tensorrt_rtx import *\n__version__ = '10.13.0.1'\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        gpus = (Device("NVIDIA L4", "8.9"), Device("NVIDIA A10", "8.6"))
        monkeypatch.setattr("enginery.engines.tensorrt.engine.devices", lambda: gpus)
        monkeypatch.setattr("enginery.engines.tensorrt.engine.no_gpu_reason", lambda: None)
        yield
        sys.modules.pop("tensorrt", None)

    def build(self, tmp_path, **options):
        source, folder, cache = (tmp_path / name for name in ("source", "engine", "cache"))
        for each in (source, folder, cache):
            each.mkdir()
        spec = dataclasses.replace(models.spec(**options), cache=cache)
        return get_engine("tensorrt").build(models.save(models.linear(), source), folder, spec)

    @pytest.mark.parametrize(
        "options", [{"sparsity": True}, {"optimization_level": 2}, {"hardware_compatibility": "ampere+"}]
    )
    def test_its_own_options_are_taken(self, tmp_path, options):
        artifact = self.build(tmp_path, **options)
        assert (artifact.facts["runtime"], artifact.facts["capability"]) == ("tensorrt", "8.9")
        assert artifact.options.items() >= options.items()

    def test_another_gpu_has_a_timing_cache_of_its_own(self, tmp_path):
        assert self.build(tmp_path, device=1).facts["capability"] == "8.6"
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tensorrt-10.13.0.1-nvidia-a10-8.6.timing"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": 2}, "GPU 2 was asked for with `device`, counted from 0; the driver shows 2"),
            ({"timing_cache": "absent/cache"}, "in a folder that is not there"),
            ({"compute_capabilities": ["8.9"]}, "does not support `compute_capabilities`"),
        ],
    )
    def test_what_it_cannot_take_is_said(self, tmp_path, options, message):
        with pytest.raises((EngineError, UsageError), match=message):
            self.build(tmp_path, **options)


def test_a_read_only_home_does_not_stop_a_build(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (warning,) = build(models.linear(), tmp_path).facts["warnings"]
    assert "could not be recorded as built here" in warning


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'fp16'"):
        build(models.linear(), tmp_path, models.spec(fp16=True))


@NO_GPU
def test_running_is_deferred_with_a_reason(tmp_path):
    engine = get_engine("tensorrt-rtx")
    assert engine.cannot_build() is None
    assert "NVIDIA" in str(engine.cannot_run())
    with pytest.raises(EngineError, match=r"cannot run here: .*NVIDIA"):
        engine.load(Artifact(tmp_path, "engine.plan"), models.SPEC)


def test_full_tensorrt_says_what_to_install():
    engine = get_engine("tensorrt")
    reason = engine.cannot_build()
    if reason is None:
        pytest.skip("TensorRT is installed here, with a GPU")
    assert "tensorrt" in reason
    assert "pypi.nvidia.com" in reason or "NVIDIA" in reason


def test_an_old_version_is_refused(monkeypatch):
    monkeypatch.setattr(TensorRTRTX, "least", (99, 0))
    assert f"{trt.__version__} is installed; 99.0 or newer is needed" in str(TensorRTRTX().cannot_build())


@pytest.mark.gpu
class TestOnAGpu:
    """Listed in docs/gpu.md. A plan must run on the device at hand: RTX has none for compute capability 9.0."""

    @pytest.fixture(autouse=True)
    def runnable(self):
        if reason := get_engine("tensorrt-rtx").cannot_run():
            pytest.skip(reason)

    @pytest.fixture
    def session(self, tmp_path):
        engine = get_engine("tensorrt-rtx")
        artifact = build(
            models.linear(), tmp_path, models.spec(profiles=[{"batch": [1, 1, 4]}, {"batch": [1, 16, 32]}])
        )
        with engine.load(artifact, models.SPEC) as session:
            yield session

    @pytest.mark.parametrize("batch", [1, 3, 32])
    def test_answers_like_the_graph(self, session, batch):
        feeds = models.inputs(batch)
        np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)

    def test_graphs_are_replayed_and_dropped(self, session):
        for batch in (4, 4, 4, 8, 8, 32, 4, 4):
            for seed in range(3):
                feeds = models.inputs(batch, seed)
                np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)
        assert session.device_milliseconds > 0

    def test_results_outlive_the_next_run(self, session):
        first = session.run(models.inputs(2, 0))["y"]
        kept = first.copy()
        session.run(models.inputs(2, 1))
        np.testing.assert_array_equal(first, kept)

    def test_a_strangers_plan_is_not_loaded(self, tmp_path, monkeypatch):
        artifact = build(models.linear(), tmp_path)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
        with pytest.raises(UntrustedSourceError):
            get_engine("tensorrt-rtx").load(artifact, models.SPEC)

    def test_sizes_outside_every_profile_are_refused_with_the_profiles(self, session):
        with pytest.raises(InputError, match=r"batch"):
            session.run(models.inputs(64))

    def test_the_inspector_lists_the_layers(self, session):
        kernels = session.kernels()
        assert kernels["heavy"]["float"] >= 1
        assert sum(kernels["counts"].values()) >= len(kernels["nodes"]) > 0

    def test_int8_answers_like_the_graph_run_literally(self, tmp_path):
        artifact = build(models.quantized_linear(), tmp_path)
        literal = open_model(models.save(models.quantized_linear(), tmp_path))
        with get_engine("tensorrt-rtx").load(artifact, models.SPEC) as session:
            assert session.kernels()["heavy"]["integer"] == 1
            feeds = models.inputs(5)
            np.testing.assert_allclose(session.run(feeds)["y"], literal(feeds)["y"], rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("option", ["refit", "strip_plan", "weight_streaming"])
    def test_refitted_stripped_and_streamed_plans_answer_too(self, option, tmp_path):
        artifact = build(models.linear(), tmp_path, models.spec(**{option: True}))
        with get_engine("tensorrt-rtx").load(artifact, models.SPEC) as session:
            feeds = models.inputs(3)
            np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4)
