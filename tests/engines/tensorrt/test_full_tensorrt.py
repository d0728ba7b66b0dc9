"""Full TensorRT's path through a build, with the module of TensorRT-RTX in its place, which takes the same calls."""

import dataclasses
import sys

import engine_models as models
import pytest

from enginery.engines import get_engine
from enginery.engines.cuda.driver import Device
from enginery.errors import EngineError, UsageError

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("from tensorrt_rtx import *\n__version__ = '10.13.0.1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    gpus = (Device("NVIDIA L4", "8.9"), Device("NVIDIA A10", "8.6"))
    monkeypatch.setattr("enginery.engines.tensorrt.engine.devices", lambda: gpus)
    monkeypatch.setattr("enginery.engines.tensorrt.engine.no_gpu_reason", lambda: None)
    yield
    sys.modules.pop("tensorrt", None)


def build(tmp_path, **options):
    source, folder, cache = (tmp_path / name for name in ("source", "engine", "cache"))
    for each in (source, folder, cache):
        each.mkdir()
    spec = dataclasses.replace(models.spec(**options), cache=cache)
    return get_engine("tensorrt").build(models.save(models.linear(), source), folder, spec)


@pytest.mark.parametrize(
    "options", [{"sparsity": True}, {"optimization_level": 2}, {"hardware_compatibility": "ampere+"}]
)
def test_its_own_options_are_taken(tmp_path, options):
    artifact = build(tmp_path, **options)
    assert (artifact.facts["runtime"], artifact.facts["capability"]) == ("tensorrt", "8.9")
    assert artifact.options.items() >= options.items()


def test_another_gpu_has_a_timing_cache_of_its_own(tmp_path):
    assert build(tmp_path, device=1).facts["capability"] == "8.6"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tensorrt-10.13.0.1-nvidia-a10-8.6.timing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": 2}, "GPU 2 was asked for with `device`, counted from 0; the driver shows 2"),
        ({"timing_cache": "absent/cache"}, "in a folder that is not there"),
        ({"compute_capabilities": ["8.9"]}, "does not support `compute_capabilities`"),
    ],
)
def test_what_it_cannot_take_is_said(tmp_path, options, message):
    with pytest.raises((EngineError, UsageError), match=message):
        build(tmp_path, **options)
