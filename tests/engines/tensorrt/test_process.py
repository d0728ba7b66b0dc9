"""The process that builds a plan: equal bytes from equal input, and an error when it crashes."""

import os
import signal
import subprocess
import sys

import engine_models as models
import pytest
from rtx import build_model, convolution, digest

from enginery.errors import EngineError

pytest.importorskip("tensorrt_rtx")


def test_equal_builds_give_equal_bytes(tmp_path, monkeypatch):
    """Whatever stands in the environment, whose length moves the addresses of a process's first thread."""
    model, spec = convolution()
    plans, logs = set(), set()
    for number in range(6):
        monkeypatch.setenv("PADDING", "x" * 1370 * number)
        artifact = build_model(model, tmp_path, spec, name="e" * (number + 1))
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
    assert run.stdout.strip() == digest(build_model(models.linear(), tmp_path))


def test_a_crash_of_the_builder_is_an_error(tmp_path, monkeypatch):
    crash = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    monkeypatch.setattr("enginery.engines.tensorrt.process.BUILDER", (sys.executable, "-c", crash))
    with pytest.raises(EngineError, match="the builder was killed by SIGSEGV"):
        build_model(models.linear(), tmp_path)
