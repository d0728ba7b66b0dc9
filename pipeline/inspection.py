"""What a file or folder is and what it holds: an ONNX model, statistics, or a bundle. Values are JSON-ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import InvalidModelError, UsageError
from enginery.pipeline.bundle import Bundle
from enginery.pipeline.bundle.manifest import FILE_NAME

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto, ValueInfoProto


def inspect(path: Path) -> dict[str, Any]:
    """Describe what lies at `path`; the key `kind` says which: `model`, `statistics` or `bundle`.

    Raises:
        UsageError: it is none of these.
        InvalidModelError, StatisticsError, IntegrityError: it is one of these, and broken.
    """
    from enginery.passes.calibration.statistics import HEAD, statistics_folder

    if path.is_file() and path.suffix == ".onnx":
        return {"kind": "model", **describe_model(path)}
    if (statistics_folder(path) / HEAD).is_file():
        return {"kind": "statistics", **describe_statistics(path)}
    if (path / FILE_NAME).is_file():
        return {"kind": "bundle", **describe_bundle(path)}
    raise UsageError(f"{path} is not an ONNX file, nor a folder of statistics, nor a bundle.")


def describe_model(path: Path) -> dict[str, Any]:
    """Signature, opsets, operators and weights of an ONNX file. External weights are not read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InvalidModelError(f"{path} is not an ONNX file: {error}") from error
    graphs = list(_graphs(model.graph))
    initializers = [tensor for graph in graphs for tensor in graph.initializer]
    operators = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for g in graphs for n in g.node)
    names = {tensor.name for tensor in model.graph.initializer}
    return {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": [_describe_value(value) for value in model.graph.input if value.name not in names],
        "outputs": [_describe_value(value) for value in model.graph.output],
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        "weights": len(initializers),
        "weight_bytes": sum(map(_bytes, initializers)),
        "weight_dtypes": dict(Counter(_dtype(tensor.data_type) for tensor in initializers)),
        "initializers_that_are_inputs": sum(value.name in names for value in model.graph.input),
    }


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _dtype(data_type: int) -> str:
    import onnx

    return onnx.helper.tensor_dtype_to_string(data_type).removeprefix("TensorProto.").lower()


def _describe_value(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{value.name}: {_dtype(tensor.elem_type)}[{', '.join(dims)}]"


def _bytes(tensor: TensorProto) -> int:
    import math

    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    bits = (
        4 if "int4" in _dtype(tensor.data_type) else 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    )
    return math.ceil(math.prod(tensor.dims) * bits / 8)


def describe_statistics(path: Path) -> dict[str, Any]:
    """What calibration saw: how much data, of which graph, and the range of every tensor, the widest first."""
    from enginery.passes.calibration import Statistics

    statistics = Statistics.load(path)
    widest = sorted(statistics.tensors.items(), key=lambda item: -max(abs(item[1].low), abs(item[1].high)))
    return {
        "graph": statistics.graph_digest,
        "data": statistics.data_digest,
        "batches": len(statistics.batches),
        "samples": statistics.samples,
        "random": statistics.random,
        "complete": statistics.complete,
        "masks": list(statistics.masks),
        "tensors": {name: [tensor.low, tensor.high] for name, tensor in widest},
    }


def describe_bundle(path: Path) -> dict[str, Any]:
    """What a bundle says of itself. Nothing is verified here; `enginery verify` does that."""
    manifest = Bundle.open(path).manifest
    return {
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "enginery": manifest.enginery,
        "validated": manifest.validated,
        "inputs": [str(tensor.spec) for tensor in manifest.inputs],
        "outputs": [str(tensor.spec) for tensor in manifest.outputs],
        "dims": {name: [dim.min, dim.opt, dim.max] for name, dim in manifest.dims.items()},
        "gates": {gate.gate: f"{gate.verdict}: {gate.words}" for gate in manifest.gates},
        "allowed": list(manifest.allowed),
        "bytes": sum(record.size for record in manifest.files.values()),
        "files": {name: record.size for name, record in manifest.files.items()},
    }
