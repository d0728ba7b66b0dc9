"""Small models for the tests of engines: a linear layer in float and with Q/DQ, and what they should answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from enginery.engines.base import BuildSpec, DimRange, TensorSpec

SPEC = BuildSpec(
    inputs=(TensorSpec("x", "float32", ("batch", 16)),),
    outputs=(TensorSpec("y", "float32", ("batch", 8)),),
    dims={"batch": DimRange(1, 4, 32)},
)

WEIGHT = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)


def spec(**options: object) -> BuildSpec:
    return BuildSpec(SPEC.inputs, SPEC.outputs, SPEC.dims, options)


def parse(
    body: str, *, opset: int = 20, signature: str = "(float[batch, 16] x) => (float[batch, 8] y)"
) -> onnx.ModelProto:
    imports = f'"" : {opset}, "com.microsoft" : 1'
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> model {signature} {body}")


def add(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def linear() -> onnx.ModelProto:
    """y = relu(x w), its nodes named `product` and `relu`."""
    model = add(parse("{ h = MatMul(x, w)  y = Relu(h) }"), w=WEIGHT)
    return name_nodes(model, "product", "relu")


def quantized_linear(activation: type[np.generic] = np.int8, zero_point: int = 0) -> onnx.ModelProto:
    """The same with Q/DQ on the input and a DQ on the weight (per tensor, symmetric int8)."""
    body = "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  v = DequantizeLinear(w, t)"
    model = parse(body + "  h = MatMul(d, v)  y = Relu(h) }")
    step = np.abs(WEIGHT).max() / 127
    add(
        model,
        s=np.float32(0.04),
        z=np.array(zero_point, activation),
        w=np.round(WEIGHT / step).astype(np.int8),
        t=np.float32(step),
    )
    return name_nodes(model, "quantize", "dequantize", "weight", "product", "relu")


def float_between_integers() -> onnx.ModelProto:
    """y = x·w, a Gemm with float weights between two Q/DQ pairs: ONNX Runtime would round its weights by itself."""
    body = "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  h = Gemm(d, w)"
    model = parse(body + "  p = QuantizeLinear(h, s, z)  y = DequantizeLinear(p, s, z) }")
    add(model, s=np.float32(0.04), z=np.array(0, np.uint8), w=WEIGHT)
    return name_nodes(model, "quantize", "dequantize", "product", "requantize", "answer")


def name_nodes(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def save(model: onnx.ModelProto, folder: Path, *, external: bool = False, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(
        model, path, save_as_external_data=external, location="weights.bin" if external else None, size_threshold=0
    )
    return path


def inputs(batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 16)).astype(np.float32)}


def expected(feeds: dict[str, np.ndarray]) -> np.ndarray:
    return np.maximum(feeds["x"] @ WEIGHT, 0)
