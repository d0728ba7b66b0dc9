"""Digests that tie statistics to the graph they were measured on and to the data they were measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def graph_digest(model: Path) -> str:
    """sha256 of an ONNX file's graph and weights: 64 hexadecimal digits.

    Names of nodes, documentation and metadata do not count; names of tensors do, since statistics are kept by them.
    External data is read in chunks.
    """
    import onnx

    proto = onnx.load(model, load_external_data=False)
    digest = hashlib.sha256()
    for opset in sorted(proto.opset_import, key=lambda entry: entry.domain):
        digest.update(f"{opset.domain}:{opset.version}\n".encode())
    for value in (*proto.graph.input, *proto.graph.output):
        digest.update(value.name.encode() + b"\0")
    for node in proto.graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        for field in ("name", "doc_string", "metadata_props"):
            bare.ClearField(field)
        digest.update(bare.SerializeToString(deterministic=True))
    for tensor in sorted(proto.graph.initializer, key=lambda entry: entry.name):
        digest.update(f"{tensor.name}\0{tensor.data_type}{list(tensor.dims)}".encode())
        _update_with_weights(digest, tensor, model.parent)
    return digest.hexdigest()


def _update_with_weights(digest: Any, tensor: Any, folder: Path) -> None:
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        digest.update(onnx.numpy_helper.to_array(tensor).tobytes())
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = folder / entries["location"]
    offset = int(entries.get("offset", 0))
    left = int(entries.get("length", path.stat().st_size - offset))
    with path.open("rb") as file:
        file.seek(offset)
        while left > 0 and (chunk := file.read(min(left, 1 << 24))):
            digest.update(chunk)
            left -= len(chunk)


def batch_digest(feeds: Mapping[str, npt.NDArray[Any]]) -> str:
    """First 16 hexadecimal digits of the sha256 of one batch: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}\0{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def data_digest(batches: tuple[str, ...]) -> str:
    """sha256 of a set of batches, whatever their order."""
    return hashlib.sha256("\n".join(sorted(batches)).encode()).hexdigest()
