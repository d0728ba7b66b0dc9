"""Reads ONNX files as protocol-buffer messages, without the `onnx` package and without loading weights.

What runs a bundle has no `onnx` installed, and what checks a hostile file must not hand it to a full parser first.
This reader maps the file, decodes one message at a time and leaves every payload (weights, strings) where it lies, so
that a model of several gigabytes costs a few page faults. It knows the wire format only; the field numbers of ONNX
are constants below, from `onnx.proto` of the ONNX specification (IR version 3 to 13).
"""

from __future__ import annotations

import mmap
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from enginery.errors import InvalidModelError

MAX_NESTING: Final = 100
"""Depth of nested messages at which protobuf's own parsers give up too."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Model:
    IR_VERSION, PRODUCER_NAME, GRAPH, OPSETS, METADATA, TRAINING, FUNCTIONS = 1, 2, 7, 8, 14, 20, 25


class Opset:
    DOMAIN, VERSION = 1, 2


class Graph:
    NODES, NAME, INITIALIZERS, INPUTS, OUTPUTS, VALUE_INFO, SPARSE_INITIALIZERS = 1, 2, 5, 11, 12, 13, 15


class Node:
    INPUTS, OUTPUTS, NAME, OP_TYPE, ATTRIBUTES, DOMAIN, OVERLOAD = 1, 2, 3, 4, 5, 7, 8


class Attribute:
    NAME, INT, STRING, TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS = 1, 3, 4, 5, 6, 10, 11, 22, 23


class Tensor:
    DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14


class SparseTensor:
    VALUES, INDICES, DIMS = 1, 2, 3


class Entry:
    KEY, VALUE = 1, 2


class Function:
    NAME, NODES, DOMAIN, ATTRIBUTE_DEFAULTS, OVERLOAD = 1, 7, 10, 11, 13


class Training:
    INITIALIZATION, ALGORITHM = 1, 2


class Value:
    NAME, TYPE = 1, 2


class Type:
    TENSOR = 1
    ELEMENT = 1


class Message:
    """One message: its fields by number, each a list of integers (varints) or of payloads.

    A repeated field of protocol buffers may come in any order and mixed with others; a field that is declared once
    and comes twice is merged by parsers, which is how two readers can be made to see two models. `one` refuses that.
    """

    __slots__ = ("_buffer", "_fields", "depth")

    def __init__(self, buffer: memoryview, depth: int = 0) -> None:
        if depth > MAX_NESTING:
            raise InvalidModelError(f"The model nests more than {MAX_NESTING} messages, more than ONNX readers accept.")
        self._buffer = buffer
        self.depth = depth
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(buffer):
            self._fields.setdefault(number, []).append(value)

    def size(self) -> int:
        return len(self._buffer)

    def has(self, number: int) -> bool:
        return number in self._fields

    def messages(self, number: int) -> Iterator[Message]:
        """Each value of a repeated message field, decoded when it is reached."""
        for value in self._fields.get(number, ()):
            yield Message(_payload(value, number), self.depth + 1)

    def message(self, number: int) -> Message | None:
        return next(self.messages(number), None) if self._once(number) else None

    def payload(self, number: int) -> memoryview | None:
        return _payload(self._fields[number][0], number) if self._once(number) else None

    def text(self, number: int) -> str:
        """A string field, "" when it is absent."""
        payload = self.payload(number)
        return "" if payload is None else _text(payload)

    def texts(self, number: int) -> list[str]:
        return [_text(_payload(value, number)) for value in self._fields.get(number, ())]

    def integer(self, number: int, default: int = 0) -> int:
        if not self._once(number):
            return default
        value = self._fields[number][0]
        if not isinstance(value, int):
            raise InvalidModelError(f"The model file is malformed: field {number} should be an integer.")
        return _signed(value)

    def integers(self, number: int) -> list[int]:
        """A repeated integer field, packed or not."""
        result: list[int] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, int):
                result.append(_signed(value))
                continue
            at = 0
            while at < len(value):
                item, at = _varint(value, at)
                result.append(_signed(item))
        return result

    def _once(self, number: int) -> bool:
        count = len(self._fields.get(number, ()))
        if count > 1:
            raise InvalidModelError(
                f"The model file gives field {number} of a message {count} times where ONNX allows one; "
                "readers disagree on what that means. Save the model again with the tool that made it."
            )
        return count == 1


@contextmanager
def open_model(path: Path) -> Generator[Message]:
    """Map an ONNX file and yield its ModelProto. The message and its payloads are valid inside the context only.

    Raises:
        InvalidModelError: the file is absent, empty or no protocol-buffer message.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidModelError(f"{path}: the model cannot be read ({error.strerror}).") from None
    with file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise InvalidModelError(f"{path}: the file is empty; an ONNX model is expected.") from None
        # The mapping is not closed by hand: payloads that outlive an exception's traceback would make that raise.
        yield Message(memoryview(mapped))


def _fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(buffer)
    while at < end:
        key, at = _varint(buffer, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise InvalidModelError("The model file is malformed: it is no ONNX (protocol buffer) file.")
        if kind == _VARINT:
            value, at = _varint(buffer, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(buffer, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise InvalidModelError("The model file is malformed: it is no ONNX (protocol buffer) file.")
        if at + size > end:
            raise InvalidModelError("The model file is malformed or cut short: a field ends beyond its end.")
        yield number, buffer[at : at + size]
        at += size


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise InvalidModelError("The model file is malformed or cut short: an integer does not end.")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _payload(value: int | memoryview, number: int) -> memoryview:
    if isinstance(value, int):
        raise InvalidModelError(f"The model file is malformed: field {number} should hold bytes, not an integer.")
    return value


def _text(payload: memoryview) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError:
        raise InvalidModelError("The model file is malformed: a name is not UTF-8 text.") from None
