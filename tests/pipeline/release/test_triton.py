"""The repository for Triton against Triton's own schema, and every fault that our checks know."""

import json

import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner
from google.protobuf import text_format

from enginery.errors import EngineError, IntegrityError, MissingDependencyError, UsageError
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.manifest import DimRecord, Signature
from enginery.pipeline.cli.main import cli
from enginery.pipeline.npz import read_npz

pytest.importorskip("tritonclient", reason="the extra `triton` is not installed")

from enginery.pipeline.release import triton
from enginery.pipeline.release.triton import export_triton
from enginery.pipeline.release.triton_config import Plan, batch_dim, model_config, platform
from enginery.pipeline.release.triton_lint import lint_model, lint_repository, read_config
from enginery.pipeline.release.triton_onnxruntime import left_out


@pytest.fixture
def exported(pristine, tmp_path):
    return export_triton([pristine], tmp_path / "models")


@pytest.fixture
def manifest(pristine):
    return Bundle.open(pristine).manifest


def test_the_layout_is_tritons(exported):
    files = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    assert files == {"config.pbtxt", "1/model.onnx", "warmup/min.0", "warmup/opt.0", "warmup/max.0"}


def test_the_configuration_says_what_the_manifest_says(exported):
    config = read_config(exported.folder / "config.pbtxt")
    assert (config.name, config.platform, config.backend) == ("tiny", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 8
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("x", [6])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("y", [3])]
    assert config.version_policy.latest.num_versions == 1
    assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU


def test_dynamic_batching_follows_the_measured_curve(exported):
    config = read_config(exported.folder / "config.pbtxt")
    assert exported.batching is not None
    assert [point.batch for point in exported.batching.curve] == [1, 2, 4, 8]
    assert config.HasField("dynamic_batching") == (exported.batching.preferred is not None)
    assert exported.batching.words in exported.notes


def test_warm_up_is_one_sample_of_each_golden_case(exported, pristine):
    config = read_config(exported.folder / "config.pbtxt")
    assert [warmup.name for warmup in config.model_warmup] == ["golden-min", "golden-opt", "golden-max"]
    sample = np.frombuffer((exported.folder / "warmup" / "opt.0").read_bytes(), np.float32)
    np.testing.assert_array_equal(sample, read_npz(pristine / "golden/opt.inputs.npz")["x"][0])


def test_what_triton_cannot_be_told_is_said(exported):
    assert any("SkipLayerNormFusion" in note for note in exported.notes)


def test_the_engine_is_copied_byte_for_byte(exported, pristine):
    assert (exported.folder / "1/model.onnx").read_bytes() == (pristine / "engine/model.onnx").read_bytes()


def test_a_new_version_stands_beside_the_old(pristine, tmp_path):
    for version in (1, 2):
        assert export_triton([pristine], tmp_path, keep_versions=2).version == version
    assert read_config(tmp_path / "tiny/config.pbtxt").version_policy.latest.num_versions == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_version_that_is_taken_is_refused(pristine, tmp_path):
    export_triton([pristine], tmp_path, version=7)
    with pytest.raises(UsageError, match="has a version 7"):
        export_triton([pristine], tmp_path, version=7)


def test_a_model_with_other_inputs_is_not_replaced(pristine, tmp_path):
    export_triton([pristine], tmp_path)
    config = tmp_path / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 6", "dims: 7", 1))
    with pytest.raises(UsageError, match=r"other inputs \(x\).*--name"):
        export_triton([pristine], tmp_path)
    assert not (tmp_path / "tiny" / "2").exists()


def test_a_changed_bundle_is_not_exported(bundle, tmp_path):
    (bundle / "engine/model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        export_triton([bundle], tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_engine_that_was_never_run_is_not_exported(tmp_path):
    bundle = make_bundle(tmp_path / "b", validated=False, complete_with="enginery validate b")
    with pytest.raises(EngineError, match=r"never run.*enginery validate b"):
        export_triton([bundle], tmp_path / "models")


@pytest.mark.parametrize("target", ["tensorrt-rtx", "openvino"])
def test_a_target_that_is_not_exported_is_refused(tmp_path, target):
    with pytest.raises(UsageError, match=f"An engine for {target} is not exported to Triton"):
        export_triton([make_bundle(tmp_path / "b", target=target)], tmp_path / "models")


def test_bundles_of_several_models_are_refused(pristine, tmp_path):
    with pytest.raises(UsageError, match="one model only for TensorRT"):
        export_triton([pristine, make_bundle(tmp_path / "b", seed=1)], tmp_path / "models")


def plan_bundle(folder, capability, **changes):
    """A bundle that says it is a TensorRT plan; Triton's schema and file names are what is tested, not the plan."""
    from enginery.pipeline.bundle.manifest import EngineRecord

    engine = EngineRecord(
        folder="engine", entry="model.onnx", options={"version": "10.13"}, facts={"capability": capability}
    )
    return make_bundle(folder, target="tensorrt", engine=engine, **changes)


def test_plans_for_several_gpus_become_one_model(tmp_path):
    bundles = [plan_bundle(tmp_path / "a", "8.6"), plan_bundle(tmp_path / "b", "9.0", seed=1)]
    exported = export_triton(bundles, tmp_path / "models")
    config = read_config(exported.folder / "config.pbtxt")
    assert config.platform == "tensorrt_plan"
    assert dict(config.cc_model_filenames) == {"8.6": "model_8.6.plan", "9.0": "model_9.0.plan"}
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    for name, origin in (("8.6", "a"), ("9.0", "b")):
        copied = (exported.folder / "1" / f"model_{name}.plan").read_bytes()
        assert copied == (tmp_path / origin / "engine/model.onnx").read_bytes()
    assert any("TensorRT 10.13" in note for note in exported.notes)
    assert any("could not be measured here" in note for note in exported.notes)


def test_two_plans_for_one_gpu_are_refused(tmp_path):
    bundles = [plan_bundle(tmp_path / "a", "8.6"), plan_bundle(tmp_path / "b", "8.6", seed=1)]
    with pytest.raises(UsageError, match="another compute capability"):
        export_triton(bundles, tmp_path / "models")


def test_plans_of_different_models_are_refused(tmp_path):
    bundles = [plan_bundle(tmp_path / "a", "8.6"), plan_bundle(tmp_path / "b", "9.0", name="other")]
    with pytest.raises(UsageError, match="differ in name"):
        export_triton(bundles, tmp_path / "models")


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([("batch", 6)], [("batch", 3)], "batch"),
        ([("batch", "seq")], [("batch", "seq", 4)], "batch"),
        ([("batch", 6)], [(3,)], None),
        ([(1, 6)], [(1, 3)], None),
        ([("batch", 6), ("batch",)], [("batch", "batch")], None),
        ([("batch", 6), ()], [("batch",)], None),
    ],
)
def test_only_a_dimension_that_leads_everything_is_a_batch(manifest, inputs, outputs, expected):
    dims = {name: DimRecord(min=1, opt=2, max=4) for name in ("batch", "seq")}
    tensors = [
        tuple(Signature(name=f"{kind}{i}", dtype="float32", shape=shape) for i, shape in enumerate(shapes))
        for kind, shapes in (("x", inputs), ("y", outputs))
    ]
    changed = manifest.model_copy(update={"inputs": tensors[0], "outputs": tensors[1], "dims": dims})
    assert batch_dim(changed) == expected


def test_without_a_batch_dimension_triton_gets_full_shapes(tmp_path):
    bundle = make_bundle(tmp_path / "b", outputs=(Signature(name="y", dtype="float32", shape=("rows", 3)),))
    exported = export_triton([bundle], tmp_path / "models")
    config = read_config(exported.folder / "config.pbtxt")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 6]
    assert not config.HasField("dynamic_batching")
    assert any("no batching" in note for note in exported.notes)


def test_an_engine_that_needs_several_samples_is_not_batched(tmp_path):
    bundle = make_bundle(tmp_path / "b", dims={"batch": DimRecord(min=2, opt=4, max=8)})
    exported = export_triton([bundle], tmp_path / "models")
    assert read_config(exported.folder / "config.pbtxt").max_batch_size == 0
    assert any("no batch below 2" in note for note in exported.notes)


def test_session_options_are_handed_over(manifest):
    options = {"threads": 3, "optimization": "basic", "memory_arena": False}
    engine = manifest.engine.model_copy(update={"options": options})
    config = model_config(manifest.model_copy(update={"engine": engine}), Plan("m", "batch", 8, "model.onnx"))
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["enable_mem_arena"].string_value == "0"
    assert config.optimization.graph.level == -1


def test_options_without_a_way_into_triton_are_named(manifest):
    options = {"spinning": False, "config": {"session.x": "1"}}
    engine = manifest.engine.model_copy(update={"options": options})
    found = left_out(manifest.model_copy(update={"engine": engine}))
    assert len(found) == 2
    assert "session.x=1" in found[1]


def for_provider(manifest, target, **provider):
    engine = manifest.engine.model_copy(update={"options": {"provider": provider}})
    changed = manifest.model_copy(update={"target": target, "engine": engine})
    return model_config(changed, Plan("m", "batch", 8, "model.onnx")), left_out(changed)


def test_options_of_the_tensorrt_provider_go_by_tritons_names(manifest):
    """Under ONNX Runtime's own names the backend refuses the model: `unknown parameter`."""
    config, left = for_provider(
        manifest, "onnxruntime-tensorrt", device_id="1", trt_fp16_enable="True", trt_int8_enable="0",
        trt_max_workspace_size="1073741824", trt_min_subgraph_size="3", trt_weight_stripped_engine_enable="1",
    )  # fmt: skip
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP16", "max_workspace_size_bytes": "1073741824", "trt_min_subgraph_size": "3",
    }  # fmt: skip
    assert list(config.instance_group[0].gpus) == [1]
    assert "the provider's `trt_weight_stripped_engine_enable=1`" in left[0]
    assert len(left) == 2


def test_two_precisions_of_tensorrt_are_one_too_many_for_triton(manifest):
    config, left = for_provider(manifest, "onnxruntime-tensorrt", trt_int8_enable="1", trt_fp16_enable="1")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(accelerator.parameters) == {"precision_mode": "FP16"}
    assert "trt_int8_enable=1" in left[0]


def test_options_of_the_cuda_provider_that_triton_knows(manifest):
    config, left = for_provider(
        manifest, "onnxruntime-cuda", cudnn_conv_algo_search="HEURISTIC", gpu_mem_limit="1000", use_tf32="0"
    )
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000",
    }  # fmt: skip
    assert "the provider's `use_tf32=0`" in left[0]
    assert len(left) == 2


def test_a_data_type_that_triton_lacks_is_refused(manifest):
    odd = manifest.model_copy(update={"inputs": (Signature(name="x", dtype="complex64", shape=("batch",)),)})
    with pytest.raises(UsageError, match="no data type for x: complex64"):
        model_config(odd, Plan("m", "batch", 8, "model.onnx"))


def test_platforms():
    assert platform("onnxruntime-cuda") == "onnxruntime_onnx"
    assert platform("tensorrt") == "tensorrt_plan"


def change(folder, edit):
    config = read_config(folder / "config.pbtxt")
    edit(config)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


def _batching_without_batches(config):
    config.max_batch_size = 0
    config.dynamic_batching.max_queue_delay_microseconds = 1


FAULTS = {
    "input 'x' stands there 2 times": lambda c: c.input.add().CopyFrom(c.input[0]),
    "output 'y' stands there 2 times": lambda c: c.output.add().CopyFrom(c.output[0]),
    "is a path": lambda c: setattr(c, "default_model_filename", "../1/model.onnx"),
    "'sub/p.plan' is a path": lambda c: c.cc_model_filenames.update({"8.6": "sub/p.plan"}),
    "dynamic batching with max_batch_size 0": _batching_without_batches,
    "preferred batch size 9 is outside": lambda c: c.dynamic_batching.preferred_batch_size.append(9),
    "the folder's name is what clients use": lambda c: setattr(c, "name", "other"),
    "version 1 has no other.onnx": lambda c: setattr(c, "default_model_filename", "other.onnx"),
    "version 1 has no p.plan": lambda c: c.cc_model_filenames.update({"8.6": "p.plan"}),
    "neither platform nor backend": lambda c: (c.ClearField("platform"), c.ClearField("backend")),
    "it has no inputs": lambda c: c.ClearField("input"),
    "has no data type": lambda c: c.input[0].ClearField("data_type"),
    "has the dims [0]": lambda c: c.input[0].dims.__setitem__(0, 0),
    "reads gone, which is not in warmup/": lambda c: setattr(c.model_warmup[0].inputs["x"], "input_data_file", "gone"),
    "gives 'x' the dims [5]": lambda c: c.model_warmup[0].inputs["x"].dims.__setitem__(0, 5),
    "gives 'x' as TYPE_FP64": lambda c: setattr(c.model_warmup[0].inputs["x"], "data_type", 12),
    "gives no x": lambda c: c.model_warmup[0].inputs.pop("x"),
    "gives 'z', which is no input": lambda c: c.model_warmup[0].inputs["z"].CopyFrom(c.model_warmup[0].inputs["x"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(exported, fault):
    assert lint_repository(exported.folder.parent) == []
    change(exported.folder, FAULTS[fault])
    assert any(fault in found for found in lint_model(exported.folder)), lint_model(exported.folder)


def test_a_warm_up_file_of_another_size_is_named(exported):
    (exported.folder / "warmup" / "opt.0").write_bytes(b"123")
    assert any("opt.0 of 3 bytes; its dims need 24" in fault for fault in lint_model(exported.folder))


def test_folders_that_are_no_version_are_named(exported):
    (exported.folder / "01").mkdir()
    assert any("no version: 01" in fault for fault in lint_model(exported.folder))


def test_a_model_without_versions_is_named(tmp_path, exported):
    (exported.folder / "1").rename(tmp_path / "moved")
    assert any("no version folder" in fault for fault in lint_model(exported.folder))


@pytest.mark.parametrize("text", ["nonsense", "max_batch_sizes: 3", b"\xff"])
def test_a_configuration_that_does_not_follow_the_schema(exported, text):
    (exported.folder / "config.pbtxt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (fault,) = lint_model(exported.folder)
    assert "cannot be read" in fault


def test_a_repository_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="holds no models"):
        lint_repository(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        lint_repository(tmp_path / "nowhere")


def test_what_our_checks_refuse_is_not_delivered(pristine, tmp_path, monkeypatch):
    monkeypatch.setattr(triton, "lint_model", lambda _: ["a fault"])
    with pytest.raises(EngineError, match="a fault"):
        export_triton([pristine], tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_the_command(pristine, tmp_path):
    arguments = ["export", "triton", str(pristine), str(tmp_path / "models"), "--name", "other", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["version"] == 1
    assert document["batching"]["curve"][0]["batch"] == 1
    assert (tmp_path / "models" / "other" / "config.pbtxt").is_file()


def test_without_the_extra_the_message_names_it(pristine, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    with pytest.raises(MissingDependencyError, match=r"enginery\[triton\]"):
        export_triton([pristine], tmp_path / "models")
