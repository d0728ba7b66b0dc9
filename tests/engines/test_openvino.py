import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest

from enginery.engines import openvino
from enginery.engines.base import Artifact, BuildSpec, DimRange, TensorSpec
from enginery.engines.openvino import OpenVinoCpu
from enginery.engines.openvino_options import OpenVinoOptions
from enginery.errors import EngineError, InputError, UsageError

SPEC = BuildSpec(
    inputs=(TensorSpec("x", "float32", ("batch", 8)),),
    outputs=(TensorSpec("y", "float32", ("batch", 4)),),
    dims={"batch": DimRange(1, 4, 16)},
)


@pytest.fixture
def model(tmp_path):
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        linear (float[batch, 8] x) => (float[batch, 4] y) { h = MatMul(x, w)  y = Relu(h) }
    """)
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path, weight


def build(path, tmp_path, **options):
    folder = tmp_path / "engine"
    folder.mkdir()
    spec = BuildSpec(SPEC.inputs, SPEC.outputs, SPEC.dims, options)
    return OpenVinoCpu().build(path, folder, spec)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_answers_like_the_graph(model, tmp_path, batch):
    path, weight = model
    x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
    with OpenVinoCpu().load(build(path, tmp_path), SPEC) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weight, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "expected"), [(1, "[1,8]"), (3, "[1..16,8]"), (4, "[4,8]")])
def test_a_static_shape_has_a_model_of_its_own(model, tmp_path, monkeypatch, batch, expected):
    path, weight = model
    shapes = ({"batch": 4}, {"batch": 1})
    folder = tmp_path / "engine"
    folder.mkdir()
    spec = replace(SPEC, options={"static_shapes": True}, shapes=shapes)
    artifact = OpenVinoCpu().build(path, folder, spec)
    assert artifact.options["static_shapes"] == list(shapes)
    x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
    # A bundle knows the shapes by its options alone.
    with OpenVinoCpu().load(artifact, SPEC) as session:
        assert session.describe()["static_shapes"] == ["batch=4", "batch=1"]
        ran: list[str] = []
        run = openvino._Network.run
        monkeypatch.setattr(
            openvino._Network,
            "run",
            lambda self, feeds: ran.append(str(self._compiled.inputs[0].partial_shape)) or run(self, feeds),
        )
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weight, 0), rtol=1e-5, atol=1e-5)
    assert ran == [expected]


def test_a_session_may_be_closed_twice(model, tmp_path):
    with OpenVinoCpu().load(build(model[0], tmp_path), SPEC) as session:
        session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": np.ones((1, 8), np.float32)})


def test_static_shapes_are_where_the_gates_run():
    engine, shapes = OpenVinoCpu(), [{"batch": 4}, {"batch": 1}]
    engine.check_options({"static_shapes": [{"batch": 1}]}, SPEC.dims, shapes)
    with pytest.raises(UsageError, match=r"batch 2, where the gates run nothing.*`shapes` of the recipe"):
        engine.check_options({"static_shapes": [{"batch": 2}]}, SPEC.dims, shapes)
    with pytest.raises(UsageError, match=r"expected true, false, or a list of sizes"):
        engine.check_options({"static_shapes": "opt"}, SPEC.dims, shapes)


def test_a_read_only_input_is_run(model, tmp_path):
    x = np.ones((2, 8), np.float32)
    x.flags.writeable = False
    with OpenVinoCpu().load(build(model[0], tmp_path), SPEC) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ model[1], 0), rtol=1e-5, atol=1e-5)
        strided = np.ones((2, 16), np.float32)[:, ::2]
        np.testing.assert_allclose(session.run({"x": strided})["y"], np.maximum(x @ model[1], 0), rtol=1e-5, atol=1e-5)


def test_results_outlive_the_next_run(model, tmp_path):
    with OpenVinoCpu().load(build(model[0], tmp_path), SPEC) as session:
        first = session.run({"x": np.ones((1, 8), np.float32)})["y"]
        kept = first.copy()
        session.run({"x": np.full((1, 8), 5, np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_one_session_serves_several_threads(model, tmp_path):
    path, weight = model
    session = OpenVinoCpu().load(build(path, tmp_path), SPEC)
    wrong: list[int] = []

    def ask(value: int) -> None:
        x = np.full((2, 8), value, np.float32)
        answers = [session.run({"x": x})["y"] for _ in range(50)]
        if not all(np.allclose(answer, np.maximum(x @ weight, 0), atol=1e-4) for answer in answers):
            wrong.append(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_inference_precision_is_explicit_and_recorded(model, tmp_path):
    artifact = build(model[0], tmp_path)
    assert artifact.options["inference_precision"] == "f32"
    assert artifact.facts["inference_precision"] == "f32"
    assert OpenVinoCpu().load(artifact, SPEC).describe()["provider"] == "CPU"


def test_bf16_is_asked_for_by_name_and_stays_in_the_artifact(model, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    spec = BuildSpec(SPEC.inputs, SPEC.outputs, SPEC.dims, precision="bf16")
    artifact = OpenVinoCpu().build(model[0], folder, spec)
    assert OpenVinoCpu().load(artifact, SPEC).describe()["inference_precision"] == "bf16"


def test_the_float_rest_of_a_quantized_graph_may_be_computed_in_bfloat16(model, tmp_path):
    spec = BuildSpec(SPEC.inputs, SPEC.outputs, SPEC.dims, {"inference_precision": "bf16"}, quantized=True)
    folder = tmp_path / "engine"
    folder.mkdir()
    artifact = OpenVinoCpu().build(model[0], folder, spec)
    assert artifact.options["inference_precision"] == "bf16"


def test_an_option_that_contradicts_the_precision_is_refused(model, tmp_path):
    spec = BuildSpec(SPEC.inputs, SPEC.outputs, SPEC.dims, {"inference_precision": "f32"}, precision="bf16")
    with pytest.raises(UsageError, match="is 'f32' and the recipe's precision is bf16"):
        OpenVinoCpu().build(model[0], tmp_path, spec)


def test_same_model_gives_the_same_bytes(model, tmp_path):
    first = build(model[0], tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    second = build(model[0], other)
    names = sorted(file.name for file in first.folder.iterdir())
    assert names == ["model.bin", "model.xml"]
    assert all((first.folder / name).read_bytes() == (second.folder / name).read_bytes() for name in names)


def test_refuses_a_batch_outside_the_range(model, tmp_path):
    with (
        OpenVinoCpu().load(build(model[0], tmp_path), SPEC) as session,
        pytest.raises(InputError, match="Dimension 'batch' of input 'x' is 17"),
    ):
        session.run({"x": np.zeros((17, 8), np.float32)})


def test_names_an_output_that_is_absent(model, tmp_path):
    spec = BuildSpec(SPEC.inputs, (TensorSpec("z", "float32", ("batch", 4)),), SPEC.dims)
    with pytest.raises(EngineError, match=r"outputs \['y'\]; declared but absent: 'z'"):
        OpenVinoCpu().load(build(model[0], tmp_path), spec)


def test_a_damaged_artifact_is_an_engine_error(model, tmp_path):
    artifact = build(model[0], tmp_path)
    artifact.path.write_text("<net")
    with pytest.raises(EngineError, match="refuses the model"):
        OpenVinoCpu().load(Artifact(artifact.folder, artifact.entry, artifact.options), SPEC)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thread": 2}, "Unknown option 'thread'.*threads"),
        ({"threads": -1}, "`threads` of openvino-cpu is -1"),
        ({"threads": True}, "`threads` of openvino-cpu is True"),
        ({"inference_precision": "int8"}, "expected one of f32, bf16"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(UsageError, match=words):
        OpenVinoOptions.parse(options)


def test_the_import_leaves_nothing_behind_and_opens_no_connection(tmp_path):
    script = """
import sys
seen = []
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event == "socket.connect" or writes:
        seen.append((event, str(arguments[0])))
sys.addaudithook(watch)
from enginery.engines.openvino import import_openvino
import_openvino().Core()
print(seen)
"""
    environment = {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
