"""Device memory, pinned host memory, a stream and captured graphs, over NVIDIA's cuda-bindings.

cuda-bindings carries the CUDA runtime itself and is kept by NVIDIA for every CUDA version; it is imported when the
first stream is made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from enginery.errors import EngineError, MissingDependencyError


def runtime() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependencyError(
            f"Running TensorRT engines needs cuda-bindings ({error}). Install enginery[gpu] or enginery[rtx]."
        ) from error


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and give its results without the error code.

    Raises:
        EngineError: CUDA reports an error; the message has its name and text.
    """
    code, *results = function(*arguments)
    if int(code) != 0:
        _, text = runtime().cudaGetErrorString(code)
        raise EngineError(f"CUDA's {function.__name__} failed: {code.name} ({text.decode()}).")
    return results[0] if len(results) == 1 else tuple(results)


class Stream:
    """A stream of its own on one device, with two events that time what runs on it."""

    def __init__(self, device: int) -> None:
        self._cuda = cuda = runtime()
        self._device = device
        self.activate()
        self._stream = call(cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking)
        self._begin, self._end = call(cuda.cudaEventCreate), call(cuda.cudaEventCreate)

    @property
    def handle(self) -> int:
        return int(self._stream)

    @property
    def device_name(self) -> str:
        name: bytes = call(self._cuda.cudaGetDeviceProperties, self._device).name
        return name.decode()

    def activate(self) -> None:
        """Make the device current in the calling thread; CUDA keeps that per thread."""
        call(self._cuda.cudaSetDevice, self._device)

    def timed(self, work: Callable[[], None]) -> float:
        """Enqueue `work`, wait for it, and return the milliseconds between its begin and end on the device."""
        call(self._cuda.cudaEventRecord, self._begin, self._stream)
        work()
        call(self._cuda.cudaEventRecord, self._end, self._stream)
        call(self._cuda.cudaEventSynchronize, self._end)
        return float(call(self._cuda.cudaEventElapsedTime, self._begin, self._end))

    def copy(self, target: int, source: int, size: int) -> None:
        call(
            self._cuda.cudaMemcpyAsync, target, source, size, self._cuda.cudaMemcpyKind.cudaMemcpyDefault, self._stream
        )

    def wait(self) -> None:
        call(self._cuda.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        for event in (self._begin, self._end):
            call(self._cuda.cudaEventDestroy, event)
        call(self._cuda.cudaStreamDestroy, self._stream)


class Buffer:
    """Device memory and pinned host memory of one tensor. Both grow to the largest size asked for and are reused."""

    def __init__(self) -> None:
        self.device = 0
        self._host = 0
        self._size = 0

    def reserve(self, size: int) -> bool:
        """Make room for `size` bytes. True when the address changed."""
        # TensorRT wants an address even for an empty tensor.
        size = max(size, 1)
        if size <= self._size:
            return False
        self.free()
        cuda = runtime()
        self.device = int(call(cuda.cudaMalloc, size))
        self._host = int(call(cuda.cudaMallocHost, size))
        self._size = size
        return True

    def upload(self, array: npt.NDArray[Any], stream: Stream) -> None:
        self._view(array.shape, array.dtype)[...] = array
        stream.copy(self.device, self._host, array.nbytes)

    def download(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Stream) -> npt.NDArray[Any]:
        """Copy the tensor to the host, wait for it, and return an array that owns its memory."""
        view = self._view(shape, dtype)
        stream.copy(self._host, self.device, view.nbytes)
        stream.wait()
        return view.copy()

    def free(self) -> None:
        if self._size:
            cuda = runtime()
            call(cuda.cudaFree, self.device)
            call(cuda.cudaFreeHost, self._host)
        self.device = self._host = self._size = 0

    def _view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        count = int(np.prod(shape))
        raw = (ctypes.c_byte * (count * dtype.itemsize)).from_address(self._host)
        return np.frombuffer(memoryview(raw), dtype=dtype, count=count).reshape(shape)


class Graph:
    """A captured and instantiated CUDA graph."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable

    @classmethod
    def capture(cls, stream: Stream, work: Callable[[], None]) -> Self:
        """Capture what `work` enqueues on the stream; nothing of it runs."""
        cuda = runtime()
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cuda.cudaStreamBeginCapture, stream.handle, mode)
        try:
            work()
        finally:
            graph = call(cuda.cudaStreamEndCapture, stream.handle)
        try:
            return cls(call(cuda.cudaGraphInstantiate, graph, 0))
        finally:
            call(cuda.cudaGraphDestroy, graph)

    def launch(self, stream: Stream) -> None:
        call(runtime().cudaGraphLaunch, self._executable, stream.handle)

    def free(self) -> None:
        call(runtime().cudaGraphExecDestroy, self._executable)
