"""What full TensorRT timed, kept between builds."""

import engine_models as models
import pytest

from enginery.engines.cuda.driver import Device
from enginery.engines.tensorrt.engine import timing_cache_file
from enginery.engines.tensorrt.options import BuildOptions, settings_of
from enginery.engines.tensorrt.process import PlanBuilder, Request

trt = pytest.importorskip("tensorrt_rtx")


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
