"""Opens a candidate as a function from inputs to its first output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from contest.builds import Builder, Built
from contest.cases import feeds_of
from enginery.engines import get_engine
from enginery.engines.onnxruntime import import_onnxruntime
from enginery.engines.openvino import import_openvino
from enginery.engines.openvino_options import OpenVinoOptions

Run = Callable[[Mapping[str, Any]], np.ndarray]


def open_candidate(built: Built, builder: Builder) -> Run:
    """Every runtime gets the same number of threads and is otherwise as a user gets it."""
    openers: dict[str, Callable[[Built, Builder], Run]] = {
        "torch": _torch,
        "torch-compile": _torch,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "enginery": _enginery,
    }
    return openers[built.kind](built, builder)


def import_runtime(built: Built) -> None:
    """Import what `open_candidate` will call."""
    if built.kind.startswith("torch"):
        import torch  # noqa: F401
    elif "openvino" in (built.kind, str(built.options.get("target", "")).split("-")[0]):
        import_openvino()
    else:
        import_onnxruntime()


def _torch(built: Built, builder: Builder) -> Run:
    import torch

    torch.set_num_threads(builder.threads)
    module = builder.module().eval()
    call = torch.compile(module) if built.kind == "torch-compile" else module

    def run(feeds: Mapping[str, Any]) -> np.ndarray:
        with torch.no_grad():
            result = call(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        first = next(iter(result.values())) if isinstance(result, dict) else result
        return (first[0] if isinstance(first, tuple) else first).numpy()

    return run


def _onnxruntime(built: Built, builder: Builder) -> Run:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = builder.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(built.path), options, providers=["CPUExecutionProvider"])
    first = [session.get_outputs()[0].name]
    return lambda feeds: session.run(first, dict(feeds))[0]


def _openvino(built: Built, builder: Builder) -> Run:
    openvino = import_openvino()
    properties = OpenVinoOptions(builder.threads, built.options["inference_precision"]).properties()

    def request(shapes: Mapping[str, tuple[int, ...]]) -> Any:
        model = openvino.Core().read_model(str(built.path))
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        return openvino.Core().compile_model(model, "CPU", properties).create_infer_request()

    fixed = [shapes_of(feeds_of(builder.case, shape)) for shape in builder.case.shapes if built.options.get("static")]
    requests = {tuple(shapes.items()): request(shapes) for shapes in fixed}
    dynamic = request({})
    return lambda feeds: requests.get(tuple(shapes_of(feeds).items()), dynamic).infer(dict(feeds))[0].copy()


def shapes_of(feeds: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: feeds[name].shape for name in sorted(feeds)}


def _enginery(built: Built, _: Builder) -> Run:
    session = get_engine(built.options["target"]).load(built.options["artifact"], built.options["spec"])
    return lambda feeds: next(iter(session.run(feeds).values()))
