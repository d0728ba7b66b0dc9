"""Where Q/DQ pairs go and of which kind, for one target: data that a reader understands.

No single placement serves two runtimes. ONNX Runtime's CPU kernels want uint8 activations with a zero point and Q/DQ
around every tensor between convolutions, and none behind a transformer's matrix products. TensorRT wants symmetric
int8, on the inputs of what it computes only. OpenVINO takes a zero point in front of weights, none in products of two
computed tensors, and wants one pair for all readers of a tensor: a residual Add then reads the integers too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from enginery.errors import UsageError


@dataclass(frozen=True)
class OpRule:
    """How one compute operator is quantized.

    Attributes:
        data: Index of the activation input.
        weight: Index of the constant weight.
        bias: Index of the bias, where the operator has one.
        output: Whether a Q/DQ pair follows the operator (behind its activation function, where it has one).
    """

    data: int = 0
    weight: int = 1
    bias: int | None = 2
    output: bool = False


@dataclass(frozen=True)
class Policy:
    """The placement for one target.

    Attributes:
        name: What engines and recipes call it.
        activation: Integer type of activations.
        symmetric: Whether activations have zero point 0.
        per_channel: Whether weights, always symmetric int8, have one scale per output channel.
        compute: Operators that are quantized when their weight is constant.
        absorbed: Activation functions that the runtime computes inside the integer kernel before them.
        carriers: Operators that stay in integers when all their inputs are.
        same_scale: Those of them that only move or choose values, so that input and output share one scale.
        bias: `int32` when integer kernels need an integer bias, `float` when they refuse one.
        dedicated: Whether every consumer gets a Q/DQ pair of its own.
        residual: Whether the skip input of an Add behind a convolution is quantized.
        concat: Whether the tensors around a Concat share one scale.
        least_channels: Convolutions with fewer input channels stay in float.
        grouped: Whether grouped and depthwise convolutions are quantized.
        products: Whether a MatMul of two computed tensors is quantized, on symmetric grids.
        tables: Whether embedding tables are stored as int8, each row with a scale.
        unasked: Remedies that are not tried unless the recipe names them, and why.
    """

    name: str
    activation: Literal["uint8", "int8"]
    symmetric: bool
    per_channel: bool
    compute: Mapping[str, OpRule]
    absorbed: frozenset[str] = frozenset()
    carriers: frozenset[str] = frozenset()
    same_scale: frozenset[str] = frozenset()
    bias: Literal["int32", "float"] = "float"
    dedicated: bool = False
    residual: bool = False
    concat: bool = False
    least_channels: int = 1
    grouped: bool = True
    products: bool = False
    tables: bool = False
    unasked: Mapping[str, str] = field(default_factory=dict[str, str])


_MOVES = frozenset({"MaxPool", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"})

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            name="onnxruntime-cpu",
            activation="uint8",
            symmetric=False,
            per_channel=True,
            compute={"Conv": OpRule(output=True), "Gemm": OpRule(), "MatMul": OpRule(bias=None)},
            absorbed=frozenset({"Relu", "Clip"}),
            carriers=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Relu", "Clip"}) | _MOVES,
            same_scale=_MOVES,
            bias="int32",
            tables=True,
        ),
        Policy(
            name="tensorrt",
            activation="int8",
            symmetric=True,
            per_channel=True,
            compute={"Conv": OpRule(), "Gemm": OpRule(), "MatMul": OpRule(bias=None)},
            dedicated=True,
            residual=True,
            concat=True,
        ),
        Policy(
            name="openvino",
            activation="uint8",
            symmetric=False,
            per_channel=True,
            compute={"Conv": OpRule(), "Gemm": OpRule(), "MatMul": OpRule(bias=None)},
            residual=True,
            products=True,
            unasked={"split-outliers": "a gather and a second product for each layer cost more than they gain"},
        ),
    )
}


def get_policy(name: str) -> Policy:
    """The policy called `name`.

    Raises:
        UsageError: no such policy.
    """
    if name not in POLICIES:
        raise UsageError(f"Unknown quantization policy {name!r}; available: {', '.join(POLICIES)}.")
    return POLICIES[name]
