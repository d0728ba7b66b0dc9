"""Runs TensorRT plans on a GPU: profiles chosen by named dimensions, buffers and pinned copies reused, CUDA graphs.

Everything here needs a GPU, except the choice of a profile; docs/gpu.md says what was last seen running where.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from enginery.engines.base import Arrays, BuildSpec, DimRange, Feeds, Session, TensorSpec
from enginery.engines.cuda.runtime import Buffer, Graph, Stream
from enginery.engines.kernels import kernel_facts
from enginery.engines.tensorrt.layers import read_inspector
from enginery.engines.tensorrt.log import BuildLog
from enginery.engines.tensorrt.options import BuildOptions, format_profile
from enginery.errors import EngineError, InputError

Shapes = tuple[tuple[int, ...], ...]
Ranges = Mapping[str, DimRange]


def choose_profile(sizes: Mapping[str, int], profiles: Sequence[Ranges], current: int = 0) -> int:
    """The profile that covers the given sizes: the current one if it does, else the tightest around them.

    Raises:
        InputError: no profile covers them; the message prints the profiles.
    """
    fitting = [
        index
        for index, ranges in enumerate(profiles)
        if all(size in ranges[dim] for dim, size in sizes.items() if dim in ranges)
    ]
    if not fitting:
        given = ", ".join(f"{dim}={size}" for dim, size in sorted(sizes.items()))
        raise InputError(
            f"The input has {given}; the engine's profiles cover {'; '.join(map(format_profile, profiles))}. "
            "Split the input, or add a profile and build again."
        )
    if current in fitting:
        return current
    return min(fitting, key=lambda index: sum(bounds.max - bounds.min for bounds in profiles[index].values()))


def named_sizes(feeds: Feeds, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The size of every named dimension in checked feeds."""
    return {
        dim: size
        for spec in inputs
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }


class TensorRTSession(Session):
    """A deserialized plan with one execution context, one stream, and buffers that grow to the largest shape seen.

    A CUDA graph is captured when the same shapes come twice in a row, and replayed until other shapes come: a captured
    graph holds addresses and shapes. TensorRT-RTX captures inside the runtime, so there it is only asked to.
    """

    def __init__(self, trt: Any, serialized: bytes, spec: BuildSpec, options: BuildOptions, *, rtx: bool) -> None:
        super().__init__(spec.inputs, spec.outputs, spec.dims)
        self._trt = trt
        self._rtx = rtx
        self._options = options
        self._profiles = options.ranges(spec.dims)
        self._log = BuildLog()
        self._lock = threading.Lock()
        self._stream = Stream(options.device)
        self._runtime: Any = trt.Runtime(self._log.logger(trt))
        self._engine: Any = self._deserialize(serialized)
        self._context: Any = self._new_context()
        self._buffers = {tensor.name: Buffer() for tensor in (*spec.inputs, *spec.outputs)}
        self._profile = 0
        self._seen: Shapes | None = None
        self._graph: Graph | None = None

    def _run(self, feeds: Feeds) -> Arrays:
        with self._lock:
            self._stream.activate()
            self._select_profile(feeds)
            shapes = tuple(feeds[tensor.name].shape for tensor in self.inputs)
            outputs = self._bind(feeds, shapes)
            for tensor in self.inputs:
                self._buffers[tensor.name].upload(np.asarray(feeds[tensor.name], order="C"), self._stream)
            self.device_milliseconds = self._stream.timed(lambda: self._execute(shapes))
            return {name: self._buffers[name].download(shape, dtype, self._stream) for name, shape, dtype in outputs}

    def describe(self) -> dict[str, Any]:
        return {
            "runtime": self._trt.__name__,
            "version": self._trt.__version__,
            "device": self._stream.device_name,
            "profiles": [format_profile(ranges) for ranges in self._profiles],
            "cuda_graphs": self._options.cuda_graphs,
        }

    def refit(self, model: Path) -> None:
        """Give a plan that was built without weights those of its ONNX file.

        Raises:
            EngineError: the weights do not fit the plan.
        """
        with self._lock:
            self._stream.activate()
            refitter = self._trt.Refitter(self._engine, self._runtime.logger)
            parser = self._trt.OnnxParserRefitter(refitter, self._runtime.logger)
            self._require(parser.refit_from_file(str(model)), f"read the weights of {model.name}")
            self._require(refitter.refit_cuda_engine(), f"take the weights of {model.name}")

    def kernels(self) -> dict[str, Any]:
        """The engine inspector's table: the shapes and tactics of the device at hand are decided in it."""
        with self._lock:
            self._stream.activate()
            inspector = self._engine.create_engine_inspector()
            inspector.execution_context = self._context
            table: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        kernels = read_inspector(table)
        return kernel_facts(kernels) if kernels else {}

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            super().close()
            self._drop_graph()
            self._context = self._engine = self._runtime = None
            for buffer in self._buffers.values():
                buffer.free()
            self._stream.close()

    def _deserialize(self, serialized: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            reasons = "; ".join(map(str, self._log.problems())) or "no reason given"
            raise EngineError(f"{self._trt.__name__} {self._trt.__version__} cannot load the plan: {reasons}")
        if self._options.weight_streaming:
            engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
        return engine

    def _new_context(self) -> Any:
        if not (self._rtx and self._options.cuda_graphs):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)

    def _select_profile(self, feeds: Feeds) -> None:
        profile = choose_profile(named_sizes(feeds, self.inputs), self._profiles, self._profile)
        if profile != self._profile:
            self._require(self._context.set_optimization_profile_async(profile, self._stream.handle), "switch profiles")
            self._profile, self._seen = profile, None
            self._drop_graph()

    def _bind(self, feeds: Feeds, shapes: Shapes) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
        """Give the context shapes and addresses; return name, shape and dtype of every output."""
        if shapes != self._seen:
            self._drop_graph()
            for tensor, shape in zip(self.inputs, shapes, strict=True):
                self._require(
                    self._context.set_input_shape(tensor.name, shape), f"take {tensor.name!r} as {list(shape)}"
                )
        outputs = [
            (tensor.name, self._output_shape(tensor), np.dtype(tensor.dtype)) for tensor in self.outputs
        ]  # fmt: skip
        sizes = {tensor.name: feeds[tensor.name].nbytes for tensor in self.inputs}
        sizes |= {name: int(np.prod(shape)) * dtype.itemsize for name, shape, dtype in outputs}
        for name, size in sizes.items():
            if self._buffers[name].reserve(size) or shapes != self._seen:
                self._drop_graph()
                self._require(self._context.set_tensor_address(name, self._buffers[name].device), f"bind {name!r}")
        return outputs

    def _output_shape(self, tensor: TensorSpec) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        if any(dim < 0 for dim in shape):
            raise EngineError(
                f"The shape of output {tensor.name!r} depends on the data; TensorRT sessions need shapes that follow "
                "from the inputs' shapes. Build this model for ONNX Runtime."
            )
        return shape

    def _execute(self, shapes: Shapes) -> None:
        if self._graph is not None:
            self._graph.launch(self._stream)
            return
        self._enqueue()
        if self._options.cuda_graphs and not self._rtx and shapes == self._seen:
            # The plain run above has done what may not happen during a capture, such as allocations.
            self._graph = Graph.capture(self._stream, self._enqueue)
        self._seen = shapes

    def _enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self._stream.handle), "run")

    def _require(self, ok: Any, what: str) -> None:
        if not ok:
            reasons = "; ".join(map(str, self._log.problems())) or "no reason given"
            raise EngineError(f"{self._trt.__name__} could not {what}: {reasons}")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
            self._graph = None
