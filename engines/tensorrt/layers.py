"""The layers of a TensorRT engine, read from what the builder prints with detailed verbosity.

The engine inspector says the same and more, but it needs a deserialized engine and with it a GPU. The builder's
listing has one line a layer: name, type, inputs, constants and outputs with their data types, and the ONNX nodes that
went into it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from enginery.engines.kernels import Kernel, Kind
from enginery.engines.tensorrt.log import LAYERS

_LINE: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: (?P<rest>.*)$")
_TYPE: Final = re.compile(r"Datatype: (\w+)")
_SOURCE: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_QUANTIZED: Final = {"Int8", "UInt8", "Int4", "FP8", "FP4"}
_FLOAT: Final = {"Float", "Half", "BFloat16", "BF16"}
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


def _kernel(line: str) -> Kernel | None:
    found = _LINE.match(line)
    if found is None:
        return None
    rest = found["rest"]
    inputs, _, after = rest.partition(", Outputs: ")
    inputs, _, constants = inputs.partition(", Constants: ")
    outputs = after.partition(", TacticName: ")[0]
    kind = _kind(_TYPE.findall(inputs), _TYPE.findall(constants), _TYPE.findall(outputs), found["type"])
    heavy = any(word in found["type"].lower() for word in _HEAVY)
    return Kernel(found["name"], found["type"], kind, heavy, tuple(_SOURCE.findall(rest)))


def _kind(inputs: Sequence[str], constants: Sequence[str], outputs: Sequence[str], layer: str) -> Kind:
    heavy = any(word in layer.lower() for word in _HEAVY)
    quantized_in, quantized_out = bool(_QUANTIZED & set(inputs)), bool(_QUANTIZED & set(outputs))
    if heavy:
        if quantized_in:
            return "integer"
        return "weight-only" if _QUANTIZED & set(constants) else "float"
    if quantized_in != quantized_out:
        return "quantize"
    if quantized_in:
        return "integer"
    return "float" if _FLOAT & (set(inputs) | set(outputs)) else "other"
