"""Engines: everything that turns an ONNX file into something that runs, behind one protocol (`base.py`).

Importing this package imports no runtime. `get_engine` imports the file of the engine that is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from enginery.engines.base import Artifact, BuildSpec, DimRange, Engine, Session, TensorSpec
from enginery.errors import UsageError

__all__ = ["Artifact", "BuildSpec", "DimRange", "Engine", "Session", "TensorSpec", "get_engine", "targets"]

_ENGINES: Final = {
    "onnxruntime-cpu": ("enginery.engines.onnxruntime", "OnnxRuntimeCpu"),
    "onnxruntime-cuda": ("enginery.engines.onnxruntime", "OnnxRuntimeCuda"),
    "onnxruntime-tensorrt": ("enginery.engines.onnxruntime", "OnnxRuntimeTensorRT"),
    "openvino-cpu": ("enginery.engines.openvino", "OpenVinoCpu"),
    "tensorrt": ("enginery.engines.tensorrt.engine", "TensorRT"),
    "tensorrt-rtx": ("enginery.engines.tensorrt.engine", "TensorRTRTX"),
}


def targets() -> tuple[str, ...]:
    """The names of all targets, in the order in which help texts show them."""
    return tuple(_ENGINES)


def get_engine(target: str) -> Engine:
    """The engine that builds and loads for `target`.

    Raises:
        UsageError: there is no such target.
    """
    if target not in _ENGINES:
        raise UsageError(f"There is no target {target!r}. Available: {', '.join(_ENGINES)}.")
    module, name = _ENGINES[target]
    engine: Engine = getattr(import_module(module), name)()
    return engine
