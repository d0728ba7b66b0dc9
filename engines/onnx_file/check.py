"""Checks an ONNX file before any runtime sees it. Models are untrusted input.

1. Local functions that expand to very many nodes, or call themselves, are refused: a file of one kilobyte can hang a
   runtime's loader.
2. External data must be a regular file inside the model's folder: no absolute path, no `..`, no symbolic link, no hard
   link (runtimes follow them, and return another file's bytes), and not a memory address.
3. Offsets and lengths must lie inside that file, and agree with the tensor's dtype and shape. The tensors of sparse
   tensors, of attributes and of functions are looked at as well.
4. Nodes that make a runtime open further files (`EPContext` holds compiled engines, which are code) are refused.
5. Negative dimensions, fields given twice and nesting beyond protobuf's limit are refused.

The check reads the structure only: it needs neither the `onnx` package nor memory for the weights.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from enginery.engines.onnx_file.wire import (
    Attribute,
    Entry,
    Function,
    Graph,
    Message,
    Model,
    Node,
    SparseTensor,
    Tensor,
    Training,
    open_model,
)
from enginery.errors import InvalidModelError

MAX_EXPANDED_NODES: Final = 65_536
"""Nodes that local functions may expand to. The largest dynamo exports seen, unoptimized, expand to about 20,000."""

MAX_CALL_DEPTH: Final = 64

_EXTERNAL: Final = 1
_FORBIDDEN_OPS: Final = {"EPContext": "it makes the runtime load a compiled engine, which is code"}

# Bits per element of TensorProto.DataType (onnx.proto); strings have no fixed size and cannot be external.
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """What the check saw: nodes as stored and after functions are expanded, and the external files, relative."""

    nodes: int
    expanded_nodes: int
    external_files: tuple[str, ...]


def check_model(path: Path) -> ModelFacts:
    """Check the ONNX file at `path`, and every file that it refers to.

    Raises:
        InvalidModelError: one of the points above does not hold; the message names the tensor or node.
    """
    walk = _Walk(path.parent)
    try:
        with open_model(path) as model:
            walk.model(model)
            expanded = _expanded_nodes(model)
    except InvalidModelError as error:
        raise InvalidModelError(f"{path.name}: {error}") from None
    except RecursionError:
        raise InvalidModelError(f"{path.name}: graphs or functions nest too deeply to be read.") from None
    return ModelFacts(walk.nodes, expanded, tuple(sorted(walk.files)))


class _Walk:
    """Visits every tensor and node of a model, wherever it hides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, int] = {}
        self.nodes = 0

    def model(self, model: Message) -> None:
        graph = model.message(Model.GRAPH)
        if graph is None:
            raise InvalidModelError("the file holds no graph; an ONNX model is expected.")
        self.graph(graph)
        for function in model.messages(Model.FUNCTIONS):
            for attribute in function.messages(Function.ATTRIBUTE_DEFAULTS):
                self.attribute(attribute, f"function {function.text(Function.NAME)!r}")
            self.nodes_of(function, Function.NODES)
        for training in model.messages(Model.TRAINING):
            for number in (Training.INITIALIZATION, Training.ALGORITHM):
                for graph in training.messages(number):
                    self.graph(graph)

    def graph(self, graph: Message) -> None:
        for tensor in graph.messages(Graph.INITIALIZERS):
            self.tensor(tensor, "initializer")
        for sparse in graph.messages(Graph.SPARSE_INITIALIZERS):
            self.sparse(sparse, "sparse initializer")
        self.nodes_of(graph, Graph.NODES)

    def nodes_of(self, owner: Message, number: int) -> None:
        for node in owner.messages(number):
            self.nodes += 1
            where = f"node {node.text(Node.NAME) or next(iter(node.texts(Node.OUTPUTS)), '')!r}"
            op = node.text(Node.OP_TYPE)
            if op in _FORBIDDEN_OPS:
                raise InvalidModelError(f"{where} is an {op}: {_FORBIDDEN_OPS[op]}. Give the model it was made from.")
            for attribute in node.messages(Node.ATTRIBUTES):
                self.attribute(attribute, where)

    def attribute(self, attribute: Message, where: str) -> None:
        for number in (Attribute.TENSOR, Attribute.TENSORS):
            for tensor in attribute.messages(number):
                self.tensor(tensor, where)
        for number in (Attribute.SPARSE_TENSOR, Attribute.SPARSE_TENSORS):
            for sparse in attribute.messages(number):
                self.sparse(sparse, where)
        for number in (Attribute.GRAPH, Attribute.GRAPHS):
            for graph in attribute.messages(number):
                self.graph(graph)

    def sparse(self, sparse: Message, where: str) -> None:
        for number in (SparseTensor.VALUES, SparseTensor.INDICES):
            for tensor in sparse.messages(number):
                self.tensor(tensor, where)

    def tensor(self, tensor: Message, where: str) -> None:
        what = f"tensor {tensor.text(Tensor.NAME)!r} ({where})"
        dims = tensor.integers(Tensor.DIMS)
        if any(dim < 0 for dim in dims):
            raise InvalidModelError(f"{what} has the shape {dims}; a stored tensor has no negative dimension.")
        expected = _size(tensor.integer(Tensor.DATA_TYPE), dims)
        if tensor.integer(Tensor.DATA_LOCATION) == _EXTERNAL or tensor.has(Tensor.EXTERNAL_DATA):
            self.external(tensor, what, expected)
        elif (raw := tensor.payload(Tensor.RAW_DATA)) is not None and expected is not None and len(raw) != expected:
            raise InvalidModelError(f"{what} holds {len(raw)} bytes; its dtype and shape {dims} need {expected}.")

    def external(self, tensor: Message, what: str, expected: int | None) -> None:
        entries = _entries(tensor, what)
        location = entries.get("location", "")
        size = self.file_size(location, what)
        offset, length = _integer(entries, "offset", what), _integer(entries, "length", what)
        offset = 0 if offset is None else offset
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise InvalidModelError(
                f"{what}: its data is said to be bytes {offset} to {offset + length} of {location!r}, "
                f"which has {size} bytes. The file was cut or the model was changed; export it again."
            )
        if expected is None:
            raise InvalidModelError(f"{what} has a dtype that cannot be stored in an external file.")
        if length != expected:
            raise InvalidModelError(f"{what} has {length} bytes in {location!r}; its dtype and shape need {expected}.")

    def file_size(self, location: str, what: str) -> int:
        if location not in self.files:
            self.files[location] = _checked_file(self.folder, location, what)
        return self.files[location]


def _checked_file(folder: Path, location: str, what: str) -> int:
    """The size of an external data file, after the rules of point 2."""
    pure = PurePosixPath(location)
    if not location or "\\" in location or "\0" in location or pure.is_absolute() or ".." in pure.parts:
        raise InvalidModelError(f"{what}: its data lies at {location!r}; only files below the model's folder are read.")
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise InvalidModelError(f"{what}: {location!r} goes through a symbolic link, which could lead anywhere.")
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidModelError(
            f"{what}: its data file {location!r} cannot be read ({error.strerror}). Copy it next to the model."
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise InvalidModelError(f"{what}: {location!r} is not a regular file.")
    if status.st_nlink != 1:
        raise InvalidModelError(
            f"{what}: {location!r} is a hard link; it could be any file of this disk. Copy the model's folder instead."
        )
    return status.st_size


def _entries(tensor: Message, what: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.messages(Tensor.EXTERNAL_DATA):
        key = entry.text(Entry.KEY)
        if key in entries:
            raise InvalidModelError(f"{what} says {key!r} of its external data twice.")
        entries[key] = entry.text(Entry.VALUE)
    return entries


def _integer(entries: dict[str, str], key: str, what: str) -> int | None:
    if key not in entries:
        return None
    text = entries[key]
    # int() alone would also accept spaces, underscores and other scripts' digits, which runtimes read differently.
    if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdigit():
        raise InvalidModelError(f"{what}: the {key} of its external data is {text!r}; an integer is expected.")
    return int(text)


def _size(data_type: int, dims: list[int]) -> int | None:
    bits = _BITS.get(data_type)
    return None if bits is None else (math.prod(dims) * bits + 7) // 8


def _expanded_nodes(model: Message) -> int:
    """Nodes after every local function is inlined; refused when there are too many, or a function calls itself."""
    functions = {_function_key(function): function for function in model.messages(Model.FUNCTIONS)}
    sizes: dict[tuple[str, str, str], int] = {}

    def size_of(key: tuple[str, str, str], callers: tuple[tuple[str, str, str], ...]) -> int:
        if key in sizes:
            return sizes[key]
        if key in callers:
            raise InvalidModelError(f"function {key[1]!r} calls itself; ONNX allows no recursion.")
        if len(callers) >= MAX_CALL_DEPTH:
            raise InvalidModelError(f"functions call each other more than {MAX_CALL_DEPTH} deep (at {key[1]!r}).")
        sizes[key] = count(functions[key], Function.NODES, (*callers, key))
        return sizes[key]

    def count(owner: Message, number: int, callers: tuple[tuple[str, str, str], ...]) -> int:
        total = 0
        for node in _all_nodes(owner, number):
            key = (node.text(Node.DOMAIN), node.text(Node.OP_TYPE), node.text(Node.OVERLOAD))
            total += size_of(key, callers) if key in functions else 1
            if functions and total > MAX_EXPANDED_NODES:
                raise InvalidModelError(
                    f"its local functions expand to more than {MAX_EXPANDED_NODES} nodes (at {key[1]!r}), "
                    "which hangs runtimes. Inline and simplify the model with the tool that made it."
                )
        return total

    graph = model.message(Model.GRAPH)
    return 0 if graph is None else count(graph, Graph.NODES, ())


def _function_key(function: Message) -> tuple[str, str, str]:
    return function.text(Function.DOMAIN), function.text(Function.NAME), function.text(Function.OVERLOAD)


def _all_nodes(owner: Message, number: int) -> Iterator[Message]:
    """The nodes of a graph or function and of the graphs inside their attributes."""
    for node in owner.messages(number):
        yield node
        for attribute in node.messages(Node.ATTRIBUTES):
            for field in (Attribute.GRAPH, Attribute.GRAPHS):
                for graph in attribute.messages(field):
                    yield from _all_nodes(graph, Graph.NODES)
