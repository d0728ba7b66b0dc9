import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import engine_models as models
import numpy as np
import onnx
import pytest

from enginery.engines import get_engine
from enginery.engines.base import Artifact, BuildSpec, DimRange, TensorSpec
from enginery.engines.onnx_file.copy import copy_model
from enginery.engines.onnxruntime import OnnxRuntimeCpu, check_assignment, check_provider, open_model
from enginery.errors import EngineError, InputError, InvalidModelError, UsageError


def build(model, tmp_path, spec=models.SPEC, **save):
    source, folder = tmp_path / "source", tmp_path / "engine"
    source.mkdir()
    folder.mkdir()
    return OnnxRuntimeCpu().build(models.save(model, source, **save), folder, spec)


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("external", [False, True])
def test_answers_like_the_graph(tmp_path, batch, external):
    artifact = build(models.linear(), tmp_path, external=external)
    feeds = models.inputs(batch)
    with OnnxRuntimeCpu().load(artifact, models.SPEC) as session:
        np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-5, atol=1e-5)


def test_the_artifact_is_the_model_with_its_weights_readable_by_all(tmp_path):
    artifact = build(models.linear(), tmp_path, external=True)
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["model.onnx", "weights.bin"]
    assert {path.stat().st_mode & 0o777 for path in artifact.folder.iterdir()} == {0o644}
    assert artifact.path.read_bytes() == (tmp_path / "source" / "model.onnx").read_bytes()


def test_the_kernels_come_from_the_runtimes_own_graph(tmp_path):
    facts = build(models.quantized_linear(), tmp_path).facts
    nodes = {node["node"]: (node["op"], node["kind"]) for node in facts["kernels"]["nodes"]}
    assert nodes["product"] == ("MatMulIntegerToFloat", "integer")
    assert facts["kernels"]["heavy"]["integer"] == 1
    assert facts["provider"] == "CPUExecutionProvider"


def test_a_layer_in_float_between_integers_stays_in_float(tmp_path):
    facts = build(models.float_between_integers(), tmp_path).facts
    nodes = {node["node"]: node["kind"] for node in facts["kernels"]["nodes"]}
    assert nodes["product"] == "float"
    assert facts["kernels"]["heavy"]["integer"] == 0


def test_without_optimization_nothing_runs_on_integers(tmp_path):
    facts = build(models.quantized_linear(), tmp_path, models.spec(optimization="disabled")).facts
    assert facts["kernels"]["heavy"]["integer"] == 0


def test_options_are_recorded_and_used_again(tmp_path):
    artifact = build(models.linear(), tmp_path, models.spec(threads=2, optimization="basic"))
    assert artifact.options["threads"] == 2
    with OnnxRuntimeCpu().load(artifact, models.SPEC) as session:
        description = session.describe()
    assert (description["threads"], description["optimization"]) == (2, "basic")
    assert description["disabled_optimizers"] == ["SkipLayerNormFusion"]


def test_disabled_optimizers_reach_the_runtime(tmp_path):
    signature = "(float[batch, 4, 16] x, float[batch, 4, 16] r) => (float[batch, 4, 16] y)"
    body = "{ a = Add(x, r)  y = LayerNormalization<axis=-1>(a, g, b) }"
    ones = {"g": np.ones(16, np.float32), "b": np.zeros(16, np.float32)}
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("batch", 4, 16)), TensorSpec("r", "float32", ("batch", 4, 16))),
        (TensorSpec("y", "float32", ("batch", 4, 16)),),
        models.SPEC.dims,
    )

    def operators(name, **options):
        folder = tmp_path / name
        folder.mkdir()
        model = models.add(models.parse(body, signature=signature), **ones)
        artifact = build(model, folder, BuildSpec(spec.inputs, spec.outputs, spec.dims, options))
        return {node["op"] for node in artifact.facts["kernels"]["nodes"]}

    assert operators("default") == {"Add", "LayerNormalization"}
    assert operators("fused", disabled_optimizers=[]) == {"SkipLayerNormalization"}


def test_two_builds_give_equal_files_and_facts(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (build(models.quantized_linear(), tmp_path / name, external=True) for name in "ab")
    assert (first.facts, first.options) == (second.facts, second.options)
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()


def test_one_session_serves_several_threads(tmp_path):
    session = OnnxRuntimeCpu().load(build(models.linear(), tmp_path), models.SPEC)
    wrong = []

    def work(seed):
        for batch in range(1, 20):
            feeds = models.inputs(batch, seed)
            if not np.allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-4, atol=1e-4):
                wrong.append((seed, batch))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_feeds_are_checked_before_the_runtime_sees_them(tmp_path):
    with OnnxRuntimeCpu().load(build(models.linear(), tmp_path), models.SPEC) as session:
        with pytest.raises(InputError, match="'batch' of input 'x' is 33"):
            session.run(models.inputs(33))
        with pytest.raises(InputError, match="float64"):
            session.run({"x": np.zeros((1, 16))})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            BuildSpec((TensorSpec("z", "float32", ("batch", 16)),), models.SPEC.outputs, {}),
            r"inputs \['x'\].*absent: \['z'\]",
        ),
        (BuildSpec((), models.SPEC.outputs, {}), r"needs the inputs \['x'\], which are not declared"),
        (BuildSpec((TensorSpec("x", "float16", ("batch", 16)),), models.SPEC.outputs, {}), "'x' is float32"),
        (BuildSpec(models.SPEC.inputs, (TensorSpec("y", "float32", (1,)),), {}), "output 'y' is float32.*declared: y"),
    ],
)
def test_the_declared_signature_must_be_the_models(tmp_path, spec, message):
    with pytest.raises(EngineError, match=message):
        build(models.linear(), tmp_path, spec)


def test_a_model_that_the_runtime_refuses_is_named(tmp_path):
    model = models.name_nodes(models.parse("{ y = MatMul(x, w) }"), "impossible")
    models.add(model, w=np.zeros((7, 8), np.float32))
    with pytest.raises(EngineError, match=r"model.onnx: onnxruntime .* refuses the model.*impossible"):
        build(model, tmp_path)


def test_a_failing_run_says_what_went_in(tmp_path):
    spec = BuildSpec(models.SPEC.inputs, (TensorSpec("y", "float32", (1, 16)),), {"batch": DimRange(1, 2, 4)})
    model = models.parse("{ y = Reshape(x, n) }", signature="(float[batch, 16] x) => (float[1, 16] y)")
    artifact = build(models.add(model, n=np.array([1, 16])), tmp_path, spec)
    with (
        OnnxRuntimeCpu().load(artifact, spec) as session,
        pytest.raises(EngineError, match=r"'x': 'float32\[2, 16\]'\}: Reshape node '.*': input_shape"),
    ):
        session.run(models.inputs(2))


def test_hostile_files_never_reach_the_runtime(tmp_path):
    artifact = build(models.linear(), tmp_path, external=True)
    weights = artifact.folder / "weights.bin"
    os.link(weights, tmp_path / "second-name")
    with pytest.raises(InvalidModelError, match="hard link"):
        OnnxRuntimeCpu().load(artifact, models.SPEC)
    with pytest.raises(InvalidModelError, match="hard link"):
        open_model(artifact.path)
    (tmp_path / "copy").mkdir()
    with pytest.raises(InvalidModelError, match="hard link"):
        copy_model(artifact.path, tmp_path / "copy" / "model.onnx")


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'thread'"):
        build(models.linear(), tmp_path, models.spec(thread=1))


def test_a_closed_session_does_not_run(tmp_path):
    session = OnnxRuntimeCpu().load(build(models.linear(), tmp_path), models.SPEC)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(models.inputs())


@pytest.mark.parametrize("optimize", [False, True])
def test_open_model_runs_a_graph_for_passes(tmp_path, optimize):
    run = open_model(models.save(models.linear(), tmp_path), optimize=optimize, threads=1)
    feeds = models.inputs()
    np.testing.assert_allclose(run(feeds)["y"], models.expected(feeds), rtol=1e-5, atol=1e-5)
    # With it, a calibration takes twice the memory from its second batch on.
    assert not run.session.get_session_options().enable_mem_pattern


@pytest.mark.parametrize(
    ("target", "provider"),
    [("onnxruntime-cuda", "CUDAExecutionProvider"), ("onnxruntime-tensorrt", "TensorrtExecutionProvider")],
)
def test_a_provider_that_is_not_there_is_refused_by_name(tmp_path, target, provider):
    import onnxruntime

    if provider in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    engine = get_engine(target)
    reason = engine.cannot_build()
    assert reason is not None
    assert provider in reason
    assert "enginery[gpu]" in reason
    with pytest.raises(EngineError, match=provider):
        engine.build(models.save(models.linear(), tmp_path), tmp_path, models.SPEC)
    with pytest.raises(EngineError, match=provider):
        engine.load(Artifact(tmp_path, "model.onnx"), models.SPEC)


def test_the_provider_in_use_must_be_the_one_asked_for():
    check_provider(["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider")
    with pytest.raises(EngineError, match="CUDAExecutionProvider was asked for; onnxruntime uses CPUExecutionProvider"):
        check_provider(["CPUExecutionProvider"], "CUDAExecutionProvider")


def test_only_allowed_operators_may_stay_on_the_cpu(tmp_path):
    """The assignment is the runtime's own record, here of a session whose every node is on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = models.save(models.linear(), tmp_path)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assignment = session.get_provider_graph_assignment_info()
    check_assignment(assignment, ["MatMul", "Relu"])
    with pytest.raises(EngineError, match=r"1 nodes would run on the CPU: product \(MatMul\)"):
        check_assignment(assignment, ["Relu"])
    check_assignment([SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=list)], [])


def test_running_needs_neither_onnx_nor_torch_and_no_telemetry(tmp_path):
    artifact = build(models.quantized_linear(), tmp_path, external=True)
    code = f"""
import os, sys
from pathlib import Path
import numpy as np
for blocked in ("onnx", "torch"):
    sys.modules[blocked] = None
from enginery.engines import Artifact, BuildSpec, DimRange, TensorSpec, get_engine
spec = BuildSpec((TensorSpec("x", "float32", ("batch", 16)),), (TensorSpec("y", "float32", ("batch", 8)),),
                 {{"batch": DimRange(1, 4, 32)}})
with get_engine("onnxruntime-cpu").load(Artifact(Path({str(artifact.folder)!r}), "model.onnx"), spec) as session:
    print(session.run({{"x": np.ones((2, 16), np.float32)}})["y"].shape, os.environ["ORT_DISABLE_TELEMETRY"])
"""
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert run.stdout.strip() == "(2, 8) 1", run.stderr


def test_a_model_named_like_its_weights_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(models.linear(), path, save_as_external_data=True, location="model.onnx", size_threshold=0)
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match="rename it"):
        copy_model(path, tmp_path / "out" / "model.onnx")


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_gpu_provider_runs_and_lets_no_node_stray(tmp_path, target):
    engine = get_engine(target)
    if reason := engine.cannot_run():
        pytest.skip(reason)
    spec = models.spec(provider={"device_id": 0})
    (tmp_path / "engine").mkdir()
    artifact = engine.build(models.save(models.linear(), tmp_path), tmp_path / "engine", spec)
    with engine.load(artifact, models.SPEC) as session:
        assert session.describe()["provider"] == engine.provider
        feeds = models.inputs(3)
        np.testing.assert_allclose(session.run(feeds)["y"], models.expected(feeds), rtol=1e-3, atol=1e-3)
