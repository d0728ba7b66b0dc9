"""Small seeded ONNX models with what makes quantization interesting, and data for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from enginery.passes.calibration import Statistics, collect


class ModelBuilder:
    """Writes an ONNX model node by node; weights are seeded normals."""

    def __init__(self, inputs: dict[str, Sequence[int | str]], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name, dims in inputs.items()
        ]
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> str:
        return self.weight(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"node_{output}", **attrs))
        return output

    def conv(self, x: str, name: str, cin: int, cout: int, kernel: int = 3, *, group: int = 1, **attrs: Any) -> str:
        fan = (cin // group) * kernel * kernel
        weight = self.normal(f"{name}.weight", cout, cin // group, kernel, kernel, scale=fan**-0.5)
        bias = self.normal(f"{name}.bias", cout, scale=0.1)
        return self.op("Conv", [x, weight, bias], name, group=group, pads=[kernel // 2] * 4, **attrs)

    def linear(self, x: str, name: str, cin: int, cout: int) -> str:
        product = self.op("MatMul", [x, self.normal(f"{name}.weight", cin, cout, scale=cin**-0.5)], f"{name}.product")
        return self.op("Add", [product, self.normal(f"{name}.bias", cout, scale=0.1)], name)

    def layer_norm(self, x: str, name: str, size: int, spread: float = 0.0) -> str:
        """`spread` > 0 gives some channels an outlier scale, as trained transformers have them."""
        gain = np.exp(self.rng.standard_normal(size) * spread).astype(np.float32)
        scale, bias = self.weight(f"{name}.weight", gain), self.normal(f"{name}.bias", size, scale=0.1)
        return self.op("LayerNormalization", [x, scale, bias], name, axis=-1)

    def model(self, *outputs: str) -> Any:
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, results, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)

    def save(self, path: Path, *outputs: str) -> Path:
        model = self.model(*outputs)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def conv_net(path: Path, seed: int = 0) -> Path:
    """Conv-Clip, depthwise Conv-Clip, pooling, a residual block, a Concat and a classifier over [batch, 3, 16, 16]."""
    b = ModelBuilder({"image": ("batch", 3, 16, 16)}, seed)
    low, high = b.weight("zero", np.float32(0)), b.weight("six", np.float32(6))
    x = b.op("Clip", [b.conv("image", "stem", 3, 16), low, high], "stem.act")
    x = b.op("Clip", [b.conv(x, "depthwise", 16, 16, group=16), low, high], "depthwise.act")
    x = b.op(
        "MaxPool",
        [b.op("Relu", [b.conv(x, "point", 16, 16, 1)], "point.act")],
        "pool",
        kernel_shape=[2, 2],
        strides=[2, 2],
    )
    y = b.conv(b.op("Relu", [b.conv(x, "main1", 16, 16)], "main1.act"), "main2", 16, 16)
    x = b.op("Relu", [b.op("Add", [y, x], "sum")], "sum.act")
    x = b.op("Concat", [b.conv(x, "left", 16, 8, 1), b.conv(x, "right", 16, 8)], "both", axis=1)
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x], "mean")], "flat")
    weight, bias = b.normal("head.weight", 10, 16), b.normal("head.bias", 10)
    b.op("Gemm", [x, weight, bias], "logits", transB=1)
    return b.save(path, "logits")


def mlp_block(path: Path, seed: int = 0, spread: float = 1.0) -> Path:
    """LayerNorm-Linear-Gelu-Linear-residual over [batch, seq, 32], twice; LayerNorms have outlier channels."""
    b = ModelBuilder({"x": ("batch", "seq", 32)}, seed)
    x = "x"
    for layer in ("a", "b"):
        normal = b.layer_norm(x, f"{layer}.norm", 32, spread)
        hidden = b.op("Gelu", [b.linear(normal, f"{layer}.up", 32, 64)], f"{layer}.gelu")
        x = b.op("Add", [x, b.linear(hidden, f"{layer}.down", 64, 32)], f"{layer}.out")
    return b.save(path, x)


Batches = Callable[[], Iterator[dict[str, np.ndarray]]]


def normal_batches(name: str, *shapes: tuple[int, ...], seed: int = 0) -> Batches:
    """One batch of standard normals for each shape."""

    def generate() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        for shape in shapes:
            yield {name: rng.standard_normal(shape).astype(np.float32)}

    return generate


def images(count: int = 6, seed: int = 0) -> Batches:
    return normal_batches("image", *[(8, 3, 16, 16)] * count, seed=seed)


def sequences(count: int = 6, seed: int = 0) -> Batches:
    return normal_batches("x", *[(4, 5 + index, 32) for index in range(count)], seed=seed)


def calibrate(model: Path, batches: Batches, **options: Any) -> Statistics:
    from enginery.engines.onnxruntime import open_model

    return collect(model, batches, open_model=open_model, **options)


def run_all(model: Path, batches: Batches, *, optimize: bool = False) -> np.ndarray:
    """The first output of every sample, flattened: [samples, values]."""
    from enginery.engines.onnxruntime import open_model

    run = open_model(model, optimize=optimize)
    rows = [next(iter(run(feeds).values())) for feeds in batches()]
    return np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows])


def snr(reference: np.ndarray, other: np.ndarray) -> float:
    """Median over the rows of the signal-to-noise ratio in dB."""
    noise = np.square(reference - other).sum(axis=1)
    return float(np.median(10 * np.log10(np.square(reference).sum(axis=1) / np.maximum(noise, 1e-30))))


def attention_block(path: Path, seed: int = 0) -> Path:
    """Self-attention with two heads over [batch, seq, 32], in standard operators, with its output projection."""
    b = ModelBuilder({"x": ("batch", "seq", 32)}, seed)
    split = b.weight("split", np.array([0, 0, 2, 16]))
    heads: dict[str, str] = {}
    for name in ("query", "key", "value"):
        parts = b.op("Reshape", [b.linear("x", name, 32, 32), split], f"{name}.heads")
        heads[name] = b.op("Transpose", [parts], f"{name}.moved", perm=[0, 2, 3, 1] if name == "key" else [0, 2, 1, 3])
    scaled = b.op("Mul", [heads["query"], b.weight("scale", np.float32(0.25))], "query.scaled")
    weights = b.op("Softmax", [b.op("MatMul", [scaled, heads["key"]], "scores")], "weights", axis=-1)
    mixed = b.op("Transpose", [b.op("MatMul", [weights, heads["value"]], "mixed")], "mixed.moved", perm=[0, 2, 1, 3])
    joined = b.op("Reshape", [mixed, b.weight("join", np.array([0, 0, 32]))], "joined")
    b.linear(joined, "out", 32, 32)
    return b.save(path, "out")
