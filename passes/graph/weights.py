"""Weights that stay on disk until somebody looks at them.

graphsurgeon reads a constant once and keeps it. For weights that lie in an external file that would hold the whole
model in memory, and its own reader resolves the file against the current folder. `ExternalValues` knows its file;
`peek` reads without keeping.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from enginery.errors import InvalidModelError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from onnx import TensorProto

Array = npt.NDArray[Any]

_CHUNK = 1 << 20


class ExternalValues(LazyValues):
    """The values of an initializer whose bytes lie in a file beside the model.

    Raises:
        InvalidModelError: the location leaves the model's folder, is absent, or is shorter than the tensor needs.
    """

    def __init__(self, tensor: TensorProto, folder: Path) -> None:
        super().__init__(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        self.file = _inside(folder, entries.get("location", ""), tensor.name)
        self.offset = _natural(entries.get("offset", "0"), tensor.name)
        self.length = _packed_size(tensor)
        declared = _natural(entries.get("length", str(self.length)), tensor.name)
        if declared != self.length:
            raise InvalidModelError(
                f"Initializer {tensor.name!r} declares {declared} bytes of external data, but its shape "
                f"{list(tensor.dims)} and type need {self.length}. The file is damaged; export it again."
            )
        if self.offset + self.length > self.file.stat().st_size:
            raise InvalidModelError(
                f"Initializer {tensor.name!r} ends at byte {self.offset + self.length} of {self.file.name}, which has "
                f"{self.file.stat().st_size}. The data file is cut short or belongs to another model."
            )

    def load(self) -> Array:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type))
        if dtype.isbuiltin == 1 and sys.byteorder == "little":
            # Straight into the array: onnx's own reader holds the bytes three times over.
            count = self.length // dtype.itemsize
            return np.fromfile(self.file, dtype, count, offset=self.offset).reshape(tuple(self.tensor.dims))
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            raw = stream.read(self.length)
        proto = onnx.TensorProto(data_type=self.tensor.data_type, dims=self.tensor.dims, raw_data=raw)
        return np.array(numpy_helper.to_array(proto))

    def chunks(self) -> Iterator[bytes]:
        """The raw bytes in pieces of at most 1 MiB."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            left = self.length
            while left:
                piece = stream.read(min(_CHUNK, left))
                left -= len(piece)
                yield piece


class DerivedValues(LazyValues):
    """Values that are computed from others when they are read, such as weights in another precision.

    `tensor` says their name, type and shape, and holds no data.
    """


def stored(constant: gs.Constant) -> Any:
    """What a constant holds: an array, or lazy values. Unlike `.values` this reads nothing."""
    return constant._values  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def peek(constant: gs.Constant) -> Array:
    """The values of a constant, read anew when they lie on disk: the caller's reference is the only one."""
    values = stored(constant)
    return values.load() if isinstance(values, LazyValues) else values


def is_known(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    """Whether a tensor is a constant for good: dense, and no initializer that callers may override."""
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant) and not is_sparse(tensor) and not vars(tensor).get("overridable", False)


def nbytes(constant: gs.Constant) -> int:
    """Size of a constant in bytes, without reading it."""
    return int(stored(constant).nbytes)


def digest(constant: gs.Constant) -> str:
    """SHA-256 over dtype, shape and values; equal for equal tensors wherever they lie."""
    state = hashlib.sha256(f"{numpy_dtype(constant).name}{list(constant.shape)}".encode())
    for piece in raw_bytes(constant):
        state.update(piece)
    return state.hexdigest()


def raw_bytes(constant: gs.Constant) -> Iterator[bytes | memoryview]:
    """The values as ONNX stores them (little endian, row-major, sub-byte types packed), in pieces."""
    values: Any = stored(constant)
    if isinstance(values, ExternalValues):
        yield from values.chunks()
    elif isinstance(values, LazyValues) and values.tensor.HasField("raw_data"):
        yield values.tensor.raw_data
    else:
        yield numpy_helper.from_array(peek(constant)).raw_data


def numpy_dtype(tensor: gs.Tensor) -> np.dtype[Any]:
    """The numpy dtype of a tensor, also of bfloat16 and other types that numpy knows through `ml_dtypes` only."""
    dtype = tensor.dtype
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)


def is_sparse(constant: gs.Constant) -> bool:
    return isinstance(stored(constant), SparseValues)


def write(constant: gs.Constant, stream: BinaryIO) -> int:
    """Append a constant's raw bytes to `stream` and return their number."""
    return sum(stream.write(piece) for piece in raw_bytes(constant))


def _inside(folder: Path, location: str, name: str) -> Path:
    file = folder / location
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
        raise InvalidModelError(
            f"Initializer {name!r} reads its data from {location!r}, outside the model's folder. "
            "Put the data file beside the model."
        )
    if not file.is_file():
        raise InvalidModelError(f"Initializer {name!r} needs {location!r} beside the model; there is no such file.")
    return file


def _natural(text: str, name: str) -> int:
    if not text.isdecimal():
        raise InvalidModelError(f"Initializer {name!r} has an external offset or length of {text!r}; expected bytes.")
    return int(text)


def _packed_size(tensor: TensorProto) -> int:
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1):
        return (elements + 1) // 2
    return elements * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
