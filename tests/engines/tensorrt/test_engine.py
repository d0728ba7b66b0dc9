"""What a build with tensorrt_rtx gives, and where it runs. It needs no GPU."""

import engine_models as models
import pytest
from rtx import NO_GPU, build_model, convolution, digest

from enginery.engines import get_engine
from enginery.engines.base import Artifact, BuildSpec, TensorSpec
from enginery.engines.tensorrt import trust
from enginery.engines.tensorrt.engine import TensorRTRTX
from enginery.errors import EngineError

trt = pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("external", [False, True])
def test_a_plan_is_built_without_a_gpu(tmp_path, external):
    artifact = build_model(models.linear(), tmp_path, external=external)
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["build.log", "engine.plan"]
    assert artifact.facts["version"] == artifact.options["version"] == trt.__version__
    assert artifact.facts["plan"]["size"] == artifact.path.stat().st_size
    trust.require(artifact.path)


def test_the_layers_say_where_int8_is_used(tmp_path):
    kernels = build_model(models.quantized_linear(), tmp_path).facts["kernels"]
    assert kernels["heavy"]["integer"] == 1
    (product,) = (node for node in kernels["nodes"] if node["heavy"])
    assert {"product", "weight"} <= set(product["sources"])
    floats = build_model(models.linear(), tmp_path, name="float").facts["kernels"]["heavy"]
    assert (floats["integer"], floats["float"]) == (0, 1)


def test_several_profiles_are_built_into_one_plan(tmp_path):
    one = build_model(models.linear(), tmp_path)
    two = build_model(
        models.linear(), tmp_path, models.spec(profiles=[{"batch": [1, 1, 1]}, {"batch": [2, 16, 32]}]), name="two"
    )
    assert two.facts["plan"]["size"] > 1.5 * one.facts["plan"]["size"]
    assert two.options["profiles"] == [{"batch": [1, 1, 1]}, {"batch": [2, 16, 32]}]


def test_a_fixed_shape_needs_no_profile(tmp_path):
    model = models.add(
        models.parse("{ y = MatMul(x, w) }", signature="(float[4, 16] x) => (float[4, 8] y)"), w=models.WEIGHT
    )
    spec = BuildSpec((TensorSpec("x", "float32", (4, 16)),), (TensorSpec("y", "float32", (4, 8)),), {})
    assert build_model(model, tmp_path, spec).facts["plan"]["capabilities"]


@pytest.mark.parametrize("option", [{"tf32": True}, {"weight_streaming": True}, {"verbosity": "none"}])
def test_options_reach_the_builder(tmp_path, option):
    model, spec = convolution()
    plain = build_model(model, tmp_path, spec)
    other = build_model(model, tmp_path, BuildSpec(spec.inputs, spec.outputs, spec.dims, option), name="other")
    assert digest(plain) != digest(other)


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
        build_model(models.linear(), tmp_path, spec)


def test_an_input_used_as_a_shape_is_refused(tmp_path):
    signature = "(float[batch, 16] x, int64[1] n) => (float[m] y)"
    model = models.parse("{ y = Reshape(x, n) }", signature=signature)
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("batch", 16)), TensorSpec("n", "int64", (1,))),
        (TensorSpec("y", "float32", ("m",)),),
        models.SPEC.dims,
    )
    with pytest.raises(EngineError, match="'n' is used as a shape"):
        build_model(model, tmp_path, spec)


def test_a_read_only_home_does_not_stop_a_build(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (warning,) = build_model(models.linear(), tmp_path).facts["warnings"]
    assert "could not be recorded as built here" in warning


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
