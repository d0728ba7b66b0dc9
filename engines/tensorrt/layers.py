"""The layers of a TensorRT engine: from what the builder prints, and from the inspector of a loaded engine.

Both need detailed verbosity. The builder's listing, which needs no GPU, has one line a layer: name, type, inputs,
constants and outputs with their data types, and the ONNX nodes that went into it. The inspector says the same of the
engine that was deserialized on a GPU, as JSON, in words of its own for data types ("Row major linear FP32").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enginery.engines.kernels import Kernel, Kind
from enginery.engines.tensorrt.builder import LAYERS

_LINE: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: (?P<rest>.*)$")
_TYPE: Final = re.compile(r"Datatype: (\w+)")
_SOURCE: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_QUANTIZED: Final = {"Int8", "UInt8", "Int4", "FP8", "FP4"}
_FLOAT: Final = {"Float", "Half", "BFloat16", "BF16"}
_NAMED: Final = (
    (re.compile(r"\bu?int8\b", re.IGNORECASE), "Int8"),
    (re.compile(r"\bint4\b", re.IGNORECASE), "Int4"),
    (re.compile(r"\bfp8\b", re.IGNORECASE), "FP8"),
    (re.compile(r"\bfp4\b", re.IGNORECASE), "FP4"),
    (re.compile(r"\b(fp32|fp16|half|float|bf16|bfloat16)\b", re.IGNORECASE), "Float"),
)
"""How the inspector's words for a tensor's format name its data type."""

_HEAVY: Final = ("gemm", "conv", "correlation", "deconv", "attention", "mha", "einsum", "matrix")


def read_layers(messages: Sequence[str]) -> tuple[Kernel, ...]:
    """The layers that a build's verbose messages list, those of every engine in the plan (one a profile)."""
    return tuple(
        kernel
        for message in messages
        if message.startswith(LAYERS)
        for line in message.splitlines()[1:]
        if (kernel := _kernel(line)) is not None
    )


def read_inspector(table: str) -> tuple[Kernel, ...]:
    """The layers in the JSON text of `IEngineInspector.get_engine_information`.

    Empty where it tells no data types, such as of an engine that was built without detailed verbosity: what the builder
    said stands then.
    """
    try:
        found: Any = json.loads(table)
    except ValueError:
        return ()
    layers = found.get("Layers", []) if isinstance(found, dict) else []
    kernels = tuple(_inspected(layer) for layer in layers if isinstance(layer, dict))
    return kernels if any(kernel.kind != "other" for kernel in kernels) else ()


def _inspected(layer: Mapping[str, Any]) -> Kernel:
    name, op = str(layer.get("Name", "")), str(layer.get("LayerType", ""))
    weights = layer.get("Weights")
    constants = _data_types(layer.get("Constants", ()))
    constants += _named(str(weights.get("Type", ""))) if isinstance(weights, dict) else []
    kind = _kind(_data_types(layer.get("Inputs", ())), constants, _data_types(layer.get("Outputs", ())), op)
    return Kernel(name, op, kind, _is_heavy(op), tuple(_SOURCE.findall(str(layer.get("Metadata", "")))))


def _data_types(tensors: Sequence[Any]) -> list[str]:
    known = [tensor for tensor in tensors if isinstance(tensor, dict)]
    words = (str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "") for tensor in known)
    return [named for word in words for named in _named(word)]


def _named(words: str) -> list[str]:
    return [named for pattern, named in _NAMED if pattern.search(words)][:1]


def _is_heavy(op: str) -> bool:
    return any(word in op.lower() for word in _HEAVY)


def _kernel(line: str) -> Kernel | None:
    found = _LINE.match(line)
    if found is None:
        return None
    rest = found["rest"]
    inputs, _, after = rest.partition(", Outputs: ")
    inputs, _, constants = inputs.partition(", Constants: ")
    outputs = after.partition(", TacticName: ")[0]
    kind = _kind(_TYPE.findall(inputs), _TYPE.findall(constants), _TYPE.findall(outputs), found["type"])
    return Kernel(found["name"], found["type"], kind, _is_heavy(found["type"]), tuple(_SOURCE.findall(rest)))


def _kind(inputs: Sequence[str], constants: Sequence[str], outputs: Sequence[str], layer: str) -> Kind:
    quantized_in, quantized_out = bool(_QUANTIZED & set(inputs)), bool(_QUANTIZED & set(outputs))
    if _is_heavy(layer):
        if quantized_in:
            return "integer"
        return "weight-only" if _QUANTIZED & set(constants) else "float"
    if quantized_in != quantized_out:
        return "quantize"
    if quantized_in:
        return "integer"
    return "float" if _FLOAT & (set(inputs) | set(outputs)) else "other"
