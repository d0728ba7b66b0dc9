"""What tensorrt_rtx does not build, and how that is said."""

import os

import engine_models as models
import numpy as np
import pytest
from rtx import NO_GPU, build_model

from enginery.engines import get_engine
from enginery.errors import EngineError, InvalidModelError, UsageError

pytest.importorskip("tensorrt_rtx")


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
        build_model(models.linear(), tmp_path, models.spec(**option))


def test_the_parsers_refusal_names_node_reason_and_remedy(tmp_path):
    with pytest.raises(EngineError) as error:
        build_model(models.quantized_linear(zero_point=3), tmp_path)
    assert "model.onnx: tensorrt-rtx" in str(error.value)
    assert "node 'quantize' (QuantizeLinear)" in str(error.value)
    assert "Non-zero zero point" in str(error.value)
    assert "enginery lint" in str(error.value)


def test_the_absence_of_a_driver_hides_no_other_reason(tmp_path):
    model = models.parse("{ h = MatMul(x, w)  c = DequantizeLinear(b, s, z)  y = Add(h, c) }")
    models.add(model, w=models.WEIGHT, b=np.zeros(8, np.int32), s=np.float32(0.1), z=np.int32(0))
    with pytest.raises(EngineError) as error:
        build_model(models.name_nodes(model, "product", "bias", "sum"), tmp_path)
    assert "node 'bias' (DequantizeLinear)" in str(error.value)
    assert "keep biases in float" in str(error.value)
    assert "driver" not in str(error.value)


def test_an_unknown_operator_is_named(tmp_path):
    model = models.parse("{ h = MatMul(x, w)  y = com.microsoft.QuickGelu(h) }")
    with pytest.raises(EngineError, match=r"node 'gelu' \(QuickGelu\).*enginery lint"):
        build_model(models.name_nodes(models.add(model, w=models.WEIGHT), "product", "gelu"), tmp_path)


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'fp16'"):
        build_model(models.linear(), tmp_path, models.spec(fp16=True))


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
        build_model(models.quantized_linear(zero_point=3), tmp_path)
    assert "Non-zero zero point" in (tmp_path / "engine" / "build.log").read_text()
