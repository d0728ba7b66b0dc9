"""What `onnxruntime.quantization.quantize_static` writes with its defaults comes out of the fix buildable and equal.

Families of small models at three opsets and in both formats; the names of constants hold their shapes (`w16_8` is
[16, 8]).
"""

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
import rtx
from graphs import feeds_for, parse_model

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph.conformance import fix_model

pytest.importorskip("tensorrt_rtx")

IMAGE = "g (float[n, 3, 12, 12] x) => (float[n, 5] y)"
TEXT = "g (float[n, s, 16] x) => (float[n, s, 16] y)"
FAMILIES = {
    "perceptron": "g (float[n, 16] x) => (float[n, 5] y) "
    "{ a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w8_16, v8) "
    "r = Relu(a) b = MatMul(r, w8_5) y = Add(b, v5) }",
    "residual": IMAGE + "{ c = Conv <pads = [1, 1, 1, 1]> (x, w8_3_3_3, v8) n1 = BatchNormalization(c, v8, v8, v8, p8) "
    "r = Relu(n1) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) "
    "d = Conv <pads = [1, 1, 1, 1]> (p, w8_8_3_3, v8) q = Add(d, p) r2 = Relu(q) m = GlobalAveragePool(r2) "
    "f = Flatten(m) y = Gemm(f, w8_5, v5) }",
    "depthwise": IMAGE + "{ c = Conv (x, w8_3_1_1, v8) h = Clip(c, zero, six) "
    "d = Conv <group = 8, pads = [1, 1, 1, 1]> (h, w8_1_3_3, v8) i = Clip(d, zero, six) m = GlobalAveragePool(i) "
    "f = Flatten(m) y = MatMul(f, w8_5) }",
    "gated": IMAGE + "{ c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w8_3_3_3) s = Sigmoid(c) z = Mul(c, s) "
    "m = GlobalAveragePool(z) e = Conv (m, w8_8_1_1, v8) t = HardSigmoid(e) u = Mul(z, t) "
    "a = AveragePool <kernel_shape = [6, 6]> (u) f = Flatten(a) g = Gemm(f, w8_5, v5) y = Softmax(g) }",
    "u-shaped": "g (float[n, 3, 12, 12] x) => (float[n, 4, 12, 12] y) "
    "{ c = Conv <pads = [1, 1, 1, 1]> (x, w8_3_3_3, v8) "
    "r = Relu(c) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) "
    "d = Conv <pads = [1, 1, 1, 1]> (p, w8_8_3_3, v8) u = ConvTranspose <strides = [2, 2]> (d, w8_8_2_2, v8) "
    "k = Concat <axis = 1> (u, r) y = Conv (k, w4_16_1_1, v4) }",
    "resized": "g (float[n, 3, 12, 12] x) => (float[n, 4, 24, 24] y) "
    "{ c = Conv <pads = [1, 1, 1, 1]> (x, w8_3_3_3, v8) "
    'u = Resize <mode = "nearest"> (c, , twice) p = Pad (u, around) y = Conv (p, w4_8_3_3, v4) }',
    "attention": TEXT + "{ q = MatMul(x, w16_16) i = Add(q, v16) r = Reshape(i, heads) "
    "t = Transpose <perm = [0, 2, 1, 3]> (r) k = MatMul(x, w16_16) l = Reshape(k, heads) "
    "u = Transpose <perm = [0, 2, 3, 1]> (l) s = MatMul(t, u) e = Div(s, four) m = Softmax <axis = -1> (e) "
    "o = MatMul(m, t) j = Transpose <perm = [0, 2, 1, 3]> (o) h = Reshape(j, joined) a = MatMul(h, w16_16) "
    "y = Add(a, x) }",
    "erf": TEXT
    + "{ f = MatMul(x, w16_32) a = Add(f, v32) t = Erf(a) b = Add(t, one) g = Mul(a, b) h = MatMul(g, w32_16) "
    "y = Add(h, x) }",
    "embedding": "g (int64[n, s] x) => (float[n, s, 16] y) "
    "{ e = Gather(w16_16, x) f = MatMul(e, w16_16) a = Add(f, v16) "
    "y = Relu(a) }",
    "moves": "g (float[n, 16] x) => (float[n, 8] y) { a = MatMul(x, w16_16) l, r = Split <axis = 1> (a, halves) "
    "s = Sigmoid(l) m = Mul(s, r) c = Concat <axis = 1> (m, l) u = Unsqueeze(c, second) q = Squeeze(u, second) "
    "g = Slice(q, begin, end, second) y = Relu(g) }",
    "signal": "g (float[n, 3, 20] x) => (float[n, 8, 20] y) { c = Conv <pads = [2, 2]> (x, w8_3_5, v8) r = Relu(c) "
    "d = Conv <pads = [2, 2], dilations = [2]> (r, w8_8_3, v8) y = Add(d, r) }",
    "volume": "g (float[n, 2, 6, 6, 6] x) => (float[n, 4, 6, 6, 6] y) "
    "{ c = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, w4_2_3_3_3, v4) y = Relu(c) }",
    "shared": "g (float[n, 16] x) => (float[n, 16] y) { a = MatMul(x, w16_16) r = Relu(a) b = MatMul(r, w16_16) "
    "t = Transpose(w16_16) c = MatMul(b, t) y = Add(c, a) }",
}
VALUES: dict[str, Any] = {
    "zero": np.float32(0), "six": np.float32(6), "four": np.float32(4), "one": np.float32(1),
    "twice": np.array([1, 1, 2, 2], np.float32), "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "heads": np.array([0, 0, 2, 8]), "joined": np.array([0, 0, 16]), "halves": np.array([8, 8]),
    "second": np.array([1]), "begin": np.array([0]), "end": np.array([8]),
}  # fmt: skip
SIZES = {"n": 2, "s": 4}


def value_of(name, rng):
    if name in VALUES:
        return VALUES[name]
    shape = [int(size) for size in name[1:].split("_")]
    values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
    return (np.abs(values) + 0.5 if name.startswith("p") else values).astype(np.float32)


def build_model(family, opset, path):
    model = parse_model(FAMILIES[family], opset=opset, ir_version=8)
    rng = np.random.default_rng(0)
    made = {value.name for value in model.graph.input} | {name for node in model.graph.node for name in node.output}
    wanted = dict.fromkeys(name for node in model.graph.node for name in node.input if name and name not in made)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value_of(name, rng), name) for name in wanted)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(model, path)
    return model


def check(family, opset, form, folder):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([feeds_for(model, SIZES, seed) for seed in range(6)])

        def get_next(self):
            return next(self.batches, None)

    given, quantized, fixed = (folder / name for name in ("float.onnx", "quantized.onnx", "fixed.onnx"))
    model = build_model(family, opset, given)
    quantize_static(str(given), str(quantized), Reader(), quant_format=QuantFormat[form])
    feeds = [feeds_for(model, SIZES, seed) for seed in range(3)]
    result = fix_model(quantized, fixed, "tensorrt-rtx", open_model=open_model, feeds=feeds)
    assert result.after == ()
    kernels = rtx.build(fixed)
    assert not isinstance(kernels, str), kernels
    # What `lint --fix` states is what two runs show, and requantization costs no more than one bit of a tensor's range.
    stated = max(difference.relative for difference in result.differences)
    assert stated == pytest.approx(error(quantized, fixed, feeds), rel=1e-3, abs=1e-6)
    assert error(given, fixed, feeds) <= 1.5 * error(given, quantized, feeds) + 0.02
    assert stated < 0.07


def error(one, other, feeds):
    """The largest difference of two models' outputs, relative to the largest value of the first."""
    left, right = open_model(one), open_model(other)
    pairs = [(left(feed)[name], value) for feed in feeds for name, value in right(feed).items()]
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


@pytest.mark.parametrize(("family", "opset", "form"), [("resized", 13, "QOperator"), ("signal", 17, "QDQ")])
def test_a_file_of_quantize_static_comes_out_buildable_and_equal(family, opset, form, tmp_path):
    check(family, opset, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "opset", "form"), list(product(FAMILIES, (13, 17, 21), ("QDQ", "QOperator"))))
def test_every_family_at_every_opset_in_both_formats(family, opset, form, tmp_path):
    check(family, opset, form, tmp_path)
