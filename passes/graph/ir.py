"""Reading and writing the graph that passes edit: onnx-graphsurgeon with lazily read weights.

graphsurgeon alone would lose what the functions below carry over: which initializers are also inputs, attributes of
types it does not know (sparse tensors, type protos), inputs and outputs that are not tensors, and the model's own
metadata. Structure and weights are apart: `load_graph` reads the structure only, `save_graph` copies every weight
once, in order, into one data file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import inliner
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from enginery.errors import InvalidModelError
from enginery.passes.graph.weights import ExternalValues, is_sparse, nbytes, numpy_dtype, peek, raw_bytes, stored, write

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

EMBED_LIMIT = 64 << 20
"""Models whose weights take more bytes than this keep them in `<name>.data` beside the file."""

_SMALL = 1024  # tensors under this many bytes stay in the model file, where tools can show them
_ALIGNMENT = 4096  # runtimes map external tensors page by page
_MODE = 0o644
_EXPORTED = ("tensor_type", "sequence_type", "sparse_tensor_type")

# graphsurgeon prints advice such as "could not convert bfloat16"; what matters is raised or refused here.
G_LOGGER.severity = G_LOGGER.CRITICAL


def load_graph(path: Path, *, inline: bool = False) -> gs.Graph:
    """Read an ONNX file for editing; external weights stay on disk. With `inline`, local functions are inlined.

    Raises:
        InvalidModelError: the file is not ONNX, or its external data is absent, outside its folder or too short.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InvalidModelError(f"{path} could not be read as an ONNX model: {error}.") from error
    if inline and model.functions:
        model = inliner.inline_local_functions(model)
    return import_model(model, path.parent)


def external_files(model: ModelProto, folder: Path) -> tuple[Path, ...]:
    """The data files that the initializers of the main graph read, each once."""
    locations = [
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location"
    ]
    return tuple(folder / location for location in dict.fromkeys(locations))


def import_model(model: ModelProto, folder: Path) -> gs.Graph:
    """The editable form of a model; `folder` holds its external data."""
    if model.HasField("graph") is False or not model.opset_import:
        raise InvalidModelError("The file holds no ONNX graph, or names no opset. Export it again.")
    try:
        graph = gs.import_onnx(model)
        # Version 3 wants every initializer among the inputs; from 4 on that says that callers may override it.
        graph.ir_version = max(graph.ir_version or 0, 4)
    except OnnxGraphSurgeonException as error:
        raise InvalidModelError(f"The ONNX graph could not be read: {error}.") from error
    vars(graph)["header"] = _header(model)
    vars(graph)["other_types"] = [
        value for value in (*model.graph.input, *model.graph.output) if not value.type.HasField("tensor_type")
    ]
    _restore_lost(graph, model.graph, {})
    for function, proto in zip(graph.functions, model.functions, strict=True):
        _restore_attributes(function.nodes, proto.node, {})
    _open_external(graph, folder)
    return graph


def save_graph(graph: gs.Graph, path: Path) -> None:
    """Write the graph; the same graph gives the same bytes. Files are readable for everyone (mode 0644).

    Raises:
        InvalidModelError: `path` is a file that the graph still reads its weights from.
    """
    data = path.with_name(path.name + ".data")
    constants = list(_initializers(graph))
    for constant in constants:
        values = stored(constant)
        if isinstance(values, ExternalValues) and values.file.exists() and _same(values.file, data):
            raise InvalidModelError(f"{data} still holds weights of this graph. Save it under another name.")
    external = sum(map(nbytes, constants)) > EMBED_LIMIT
    partial = data.with_name(data.name + ".partial")
    with _placed(constants, partial if external else None, data.name):
        model = export_model(graph)
    if external:
        _finish(partial, data)
    else:
        data.unlink(missing_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    _finish(partial, path)


def export_model(graph: gs.Graph) -> ModelProto:
    """The ONNX form of the graph. External weights stay references to where they lie now."""
    model = gs.export_onnx(graph, do_type_check=False)
    header: ModelProto | None = vars(graph).get("header")
    if header is not None:
        model.MergeFrom(header)
        for given in vars(graph)["other_types"]:
            _overwrite(model.graph, given)
    _drop_captured(model.graph, set())
    return model


def _header(model: ModelProto) -> ModelProto:
    """What belongs to the model and not to its nodes."""
    header = onnx.ModelProto(domain=model.domain, model_version=model.model_version, doc_string=model.doc_string)
    header.metadata_props.extend(model.metadata_props)
    header.graph.metadata_props.extend(model.graph.metadata_props)
    return header


def _overwrite(graph: GraphProto, given: ValueInfoProto) -> None:
    for value in (*graph.input, *graph.output):
        if value.name == given.name:
            value.CopyFrom(given)


def _restore_lost(graph: gs.Graph, proto: GraphProto, outer: dict[str, gs.Tensor]) -> None:
    """Bring back what graphsurgeon's importer loses in a graph and its subgraphs."""
    tensors = graph.tensors()
    for tensor in tensors.values():
        if isinstance(tensor, gs.Variable) and tensor.type not in _EXPORTED:
            tensor.dtype, tensor.shape = None, None  # the exporter knows no such type; inputs and outputs get it back
    overridable = {tensor.name for tensor in proto.initializer} & {value.name for value in proto.input}
    if overridable:
        by_name = {tensor.name: tensor for tensor in graph.inputs}
        by_name |= {name: tensor for name, tensor in tensors.items() if name in overridable}
        graph.inputs = [by_name[value.name] for value in proto.input if value.name in by_name]
        for tensor in graph.inputs:
            vars(tensor)["overridable"] = tensor.name in overridable
    inputs = {id(tensor) for tensor in graph.inputs}
    for index, tensor in enumerate(graph.outputs):
        if tensor.name in outer and not tensor.inputs and id(tensor) not in inputs:
            # A branch that returns a value of the outer graph: the Identity makes that use visible to edits.
            graph.outputs[index] = gs.Variable(f"{tensor.name}/captured", dtype=tensor.dtype, shape=tensor.shape)
            graph.nodes.append(gs.Node("Identity", inputs=[outer[tensor.name]], outputs=[graph.outputs[index]]))
    _restore_attributes(graph.nodes[: len(proto.node)], proto.node, outer | dict(tensors))


def _restore_attributes(nodes: list[gs.Node], protos: Any, outer: dict[str, gs.Tensor]) -> None:
    for node, proto in zip(nodes, protos, strict=True):
        vars(node)["module"] = _module_path(proto)
        for attribute in proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH and attribute.name in node.attrs:
                _restore_lost(node.attrs[attribute.name], attribute.g, outer)
            elif attribute.name not in node.attrs:
                _restore_attribute(node, attribute)


def _restore_attribute(node: gs.Node, attribute: AttributeProto) -> None:
    if attribute.type not in (onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.SPARSE_TENSOR):
        raise InvalidModelError(
            f"Node {node.name or node.op!r}: attribute {attribute.name!r} has a type that is not supported."
        )
    node.attrs[attribute.name] = onnx.helper.get_attribute_value(attribute)


def _module_path(node: NodeProto) -> str:
    """The `nn.Module` that a node was exported from, such as `encoder.layer.0`, where torch's exporter says so."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            names = [name.strip(" '\"") for name in entry.value.strip("[]").split(",")]
            return next((name for name in reversed(names[:-1]) if name), "")
    return ""


def all_graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and its subgraphs at every depth, without local functions."""
    yield graph
    for node in graph.nodes:
        for subgraph in node.subgraphs():
            yield from all_graphs(subgraph)


def _open_external(graph: gs.Graph, folder: Path) -> None:
    seen: set[int] = set()
    for part in (graph, *graph.functions):
        for inner in all_graphs(part):
            for constant in (*_local_constants(inner), *_attribute_constants(inner)):
                values = stored(constant)
                if id(constant) in seen or not isinstance(values, LazyValues):
                    continue
                seen.add(id(constant))
                if is_sparse(constant):
                    _refuse_external_sparse(constant)
                elif values.tensor.data_location == onnx.TensorProto.EXTERNAL:
                    constant.values = ExternalValues(values.tensor, folder)


def _refuse_external_sparse(constant: gs.Constant) -> None:
    proto = stored(constant).tensor
    if onnx.TensorProto.EXTERNAL in (proto.values.data_location, proto.indices.data_location):
        raise InvalidModelError(
            f"Sparse initializer {constant.name!r} keeps its data in another file, which is not supported. "
            "Save the model with its weights inside."
        )


def _local_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    return (tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant))


def _attribute_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                yield value


def _initializers(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every dense initializer of the graph and its subgraphs, once, in the order in which nodes use them."""
    seen: set[int] = set()
    for inner in all_graphs(graph):
        for constant in _local_constants(inner):
            if id(constant) not in seen and not is_sparse(constant):
                seen.add(id(constant))
                yield constant


class _placed:  # noqa: N801 - used as a function
    """While active, each constant exports as a proto of its own: a reference into `file`, or its bytes.

    graphsurgeon exports the proto that a constant was read from, renamed in place; two constants that were read from
    one proto would share one name.
    """

    def __init__(self, constants: list[gs.Constant], file: Path | None, location: str) -> None:
        self._constants = constants
        self._file = file
        self._location = location
        self._kept: list[Any] = []

    def __enter__(self) -> None:
        self._kept = [stored(constant) for constant in self._constants]
        protos = self._write(self._file) if self._file is not None else map(_embedded, self._constants)
        for constant, proto in zip(self._constants, list(protos), strict=True):
            constant.values = LazyValues(proto)

    def __exit__(self, *_: object) -> None:
        for constant, values in zip(self._constants, self._kept, strict=True):
            constant.values = values

    def _write(self, file: Path) -> Iterator[onnx.TensorProto]:
        with file.open("wb") as stream:
            for constant in self._constants:
                if nbytes(constant) < _SMALL or numpy_dtype(constant).kind == "O":
                    yield _embedded(constant)
                    continue
                stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
                offset = stream.tell()
                length = write(constant, stream)
                yield _reference(constant, self._location, offset, length)


def _embedded(constant: gs.Constant) -> onnx.TensorProto:
    if numpy_dtype(constant).kind == "O":
        return onnx.numpy_helper.from_array(peek(constant), constant.name)
    proto = _typed(constant)
    proto.raw_data = b"".join(raw_bytes(constant))
    return proto


def _reference(constant: gs.Constant, location: str, offset: int, length: int) -> onnx.TensorProto:
    proto = _typed(constant)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)
    return proto


def _typed(constant: gs.Constant) -> onnx.TensorProto:
    data_type = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(constant))
    return onnx.TensorProto(name=constant.name, data_type=data_type, dims=list(constant.shape))


def _drop_captured(graph: GraphProto, outer: set[str]) -> None:
    """Remove from subgraphs what graphsurgeon repeats there: the outer initializers and types that they use."""
    if outer:
        for field in cast("tuple[Any, ...]", (graph.initializer, graph.value_info)):
            kept = [value for value in field if value.name not in outer]
            if len(kept) != len(field):
                del field[:]
                field.extend(kept)
    names: set[str] | None = None
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names = names or outer | _names(graph)
                _drop_captured(attribute.g, names)


def _names(graph: GraphProto) -> set[str]:
    produced = {name for node in graph.node for name in node.output}
    return produced | {value.name for field in (graph.input, graph.initializer) for value in field}


def _finish(partial: Path, final: Path) -> None:
    partial.chmod(_MODE)
    os.replace(partial, final)  # noqa: PTH105 - Path.replace is the same call under a longer name


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
