"""Every row of the table, tried on the real parser and builder: as given, and as fixed."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
import pytest
import rtx
from graphs import feeds_for, parse_model

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph.conformance import fix_model, lint_model
from enginery.passes.graph.conformance.tensorrt import tensorrt_rules

pytest.importorskip("tensorrt_rtx")

F, I8, U8, I32, F16 = np.float32, np.int8, np.uint8, np.int32, np.float16
RNG = np.random.default_rng(0)
W = RNG.standard_normal((16, 8)).astype(F)
W8 = np.clip(np.round(W * 30), -127, 127).astype(I8)
K8 = np.clip(np.round(RNG.standard_normal((8, 4, 3, 3)) * 30), -127, 127).astype(I8)
INT4 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4)
W4 = (W8 // 16).astype(INT4)
STEP = F(1 / 30)

VECTOR = RNG.standard_normal(16).astype(F)
QKV = RNG.standard_normal((16, 48)).astype(F) / 4

MATRIX = "g (float[n, 16] x) => (float[n, 8] y)"
SAME = "g (float[n, 16] x) => (float[n, 16] y)"
IMAGE = "g (float[n, 4, 8, 8] x) => (float[n, 8, 8, 8] y)"
TEXT = "g (float[n, s, 16] x) => (float[n, s, 16] y)"
HALF = "g (float16[n, 16] x) => (float16[n, 8] y)"
PRODUCT = "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, t, u) y = MatMul(d, v) }"
CONV = (
    "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear <axis = 0> (k, t, u) "
    "y = Conv <pads = [1, 1, 1, 1]> (d, v) }"
)
GOOD = {"s": F(0.04), "z": I8(0), "w": W8, "t": STEP, "u": I8(0), "k": K8}


@dataclass(frozen=True)
class Row:
    """One try: what the rule is, the model, what the runtime does with it as given, and how near the fix comes."""

    rule: str
    model: str
    arrays: dict = field(default_factory=dict)
    given: Literal["refused", "taken"] = "refused"
    fixed: Literal["exact", "near", "buildable", "no"] = "exact"
    """exact: to float rounding. near: within requantization. buildable: the given model cannot be run to compare."""

    opset: int = 20
    kernels: str | None = None
    """Kind that the heavy kernels have after the fix."""

    tensors: tuple = ()
    label: str = ""


def row(rule, signature, body, /, label="", **options):
    arrays = options.pop("arrays", {})
    return Row(rule, f"{signature} {body}", {**GOOD, **arrays}, label=label or rule, **options)


BIAS = "{ m = MatMul(x, f) e = DequantizeLinear(b, c, o) y = Add(m, e) }"
ROWS = [
    row("asymmetric-activation", MATRIX, PRODUCT, "uint8, zero point 0, in silence",
        arrays={"z": U8(0)}, given="taken", kernels="integer"),
    row("asymmetric-activation", MATRIX, PRODUCT, "uint8, zero point 128", arrays={"z": U8(128)}, kernels="integer"),
    row("asymmetric-activation", MATRIX, PRODUCT, "uint8, zero point 100", arrays={"z": U8(100)}, kernels="integer"),
    row("asymmetric-activation", MATRIX, PRODUCT, "int8, zero point -5", arrays={"z": I8(-5)}, kernels="integer"),
    row("asymmetric-activation", MATRIX, PRODUCT.replace("(x, s, z)", "(x, s)").replace("(q, s, z)", "(q, s)"),
        "no zero point means uint8, in silence", given="taken", kernels="integer"),
    row("asymmetric-activation", IMAGE, CONV, "padded Conv",
        arrays={"z": U8(120), "t": np.full(8, STEP), "u": np.zeros(8, I8)}, kernels="integer"),
    row("asymmetric-activation", IMAGE, CONV, "padded Conv behind a grid that took a Relu in", given="taken",
        arrays={"s": F(0.012), "z": U8(0), "t": np.full(8, STEP), "u": np.zeros(8, I8)}, kernels="integer"),
    row("asymmetric-activation", IMAGE, CONV, "padded Conv behind a grid that took a Clip in",
        arrays={"s": F(0.01), "z": U8(200), "t": np.full(8, STEP), "u": np.zeros(8, I8)}, kernels="integer"),
    *(row("asymmetric-activation", "g (float[n, 4, 8, 8] x) => (float[n, 8, a, b] y)",
          CONV.replace("pads = [1, 1, 1, 1]", attributes), f"Conv with {attributes}", kernels="integer",
          arrays={"z": U8(37), "t": np.full(8, STEP), "u": np.zeros(8, I8)})
      for attributes in ("pads = [2, 0, 1, 3], strides = [2, 1]", "pads = [2, 2, 2, 2], dilations = [2, 2]",
                         'auto_pad = "SAME_UPPER", strides = [2, 2]', 'auto_pad = "SAME_LOWER", strides = [1, 2]')),
    row("asymmetric-activation", "g (float[n, 4, s, 8] x) => (float[n, 8, s, 8] y)", CONV,
        "padded Conv of dynamic height", arrays={"z": U8(120), "t": np.full(8, STEP), "u": np.zeros(8, I8)},
        fixed="near", kernels="integer"),
    *(row("asymmetric-activation", "g (float[n, 3, 16] x, float[n, 16, 5] r) => (float[n, 3, 5] y)",
          "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) p = QuantizeLinear(r, t, u) "
          "e = DequantizeLinear(p, t, u) y = MatMul(d, e) }", f"{which} of two activations", kernels="integer",
          arrays={"t": F(0.04), **arrays}, opset=opset, fixed=fixed)
      for which, opset, arrays, fixed in (
          ("the first", 20, {"z": I8(-100)}, "exact"), ("the first", 12, {"z": I8(-100)}, "exact"),
          ("the second", 20, {"u": I8(-60)}, "near"), ("each", 20, {"z": I8(-100), "u": I8(20)}, "near"))),
    row("asymmetric-activation", "g (float[n, 16] x, float[16, 8] r) => (float[n, 8] y)",
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, r) }", "beside a float operand",
        arrays={"z": I8(-100)}, kernels="float"),
    row("asymmetric-activation", "g (uint8[n, 16] x) => (float[n, 8] y)",
        "{ d = DequantizeLinear(x, s, z) y = MatMul(d, f) }", "uint8 graph input", arrays={"z": U8(7), "f": W}),
    row("asymmetric-activation", "g (float[n, 16] x) => (uint8[n, 16] y)", "{ y = QuantizeLinear(x, s, z) }",
        "quantized graph output", arrays={"z": U8(7)}, fixed="no"),
    row("asymmetric-activation", "g (float[n, 4, 8, 8] x) => (float[n, 4, 8, 8] y)",
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", "a uint8 grid per channel, one behind a Relu",
        arrays={"s": np.linspace(0.02, 0.05, 4).astype(F), "z": np.array([10, 100, 128, 0], U8)}, fixed="near"),
    row("asymmetric-activation", "g (float[n, 2, 3, 16] x) => (float[n, 2, 3, 8] y)", PRODUCT, "a stack of weights",
        arrays={"z": U8(50), "w": np.stack([W8, W8[::-1]])}, kernels="integer"),
    row("asymmetric-activation", MATRIX, "{ c = Constant <value = uint8 {100}> () o = Identity(c) "
        "h = Constant <value = float {0.08}> () i = Constant <value = float {0.5}> () a = Mul(h, i) "
        "q = QuantizeLinear(x, a, o) d = DequantizeLinear(q, a, o) y = MatMul(d, f) }", "a grid out of other nodes",
        arrays={"f": W}),
    row("asymmetric-activation", SAME, "{ a = ReduceMax <keepdims = 0> (x) b = Abs(a) r = Div(b, s) "
        "q = QuantizeLinear(x, r, z) y = DequantizeLinear(q, r, z) }", "a scale that is computed",
        arrays={"z": U8(128)}, fixed="no"),
    row("asymmetric-activation", "g (float[n, 16] x, bool c) => (float[n, 16] y)", "{ q = QuantizeLinear(x, s, z) "
        "y = If(c) <then_branch = t () => (float[n, 16] o) { o = DequantizeLinear(q, s, z) }, "
        "else_branch = e () => (float[n, 16] p) { p = Relu(x) }> }", "integers that a subgraph reads",
        arrays={"z": U8(128)}, fixed="no"),
    row("asymmetric-weight", MATRIX, PRODUCT, "uint8 weight, zero point 128",
        arrays={"w": (W8.astype(int) + 128).astype(U8), "u": U8(128)}, kernels="integer"),
    row("asymmetric-weight", MATRIX, PRODUCT, "uint8 weight, zero point 90",
        arrays={"w": (W8.astype(int) + 128).astype(U8), "u": U8(90)}, fixed="near", kernels="integer"),
    row("asymmetric-weight", MATRIX, PRODUCT.replace("r(w", "r <axis = 1> (w"), "int8 weight, a zero point per channel",
        arrays={"t": np.full(8, STEP), "u": np.arange(8).astype(I8)}, fixed="near", kernels="integer"),
    row("bad-scale", MATRIX, PRODUCT, "scale 0 of an activation", arrays={"s": F(0)}, fixed="no"),
    row("bad-scale", MATRIX, PRODUCT, "infinite scale, in silence", arrays={"s": F(np.inf)}, given="taken", fixed="no"),
    row("bad-scale", MATRIX, PRODUCT.replace("r(w", "r <axis = 1> (w"), "scale 0 of a weight's channel",
        arrays={"t": np.where(np.arange(8) == 3, F(0), STEP), "u": np.zeros(8, I8)}, kernels="integer"),
    row("bad-scale", MATRIX, PRODUCT, "negative scale of a weight", arrays={"t": -STEP}, kernels="integer"),
    row("bad-scale", SAME, "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        "more zero points than scales", arrays={"z": np.zeros(16, I8)}, fixed="no"),
    row("integer-bias", MATRIX, BIAS, "int32 bias behind MatMul",
        arrays={"f": W, "b": np.arange(8).astype(I32), "c": F(0.01), "o": I32(0)}),
    row("integer-bias", MATRIX, BIAS.replace("(b, c, o)", "(b, c)"), "int32 bias without zero point",
        arrays={"f": W, "b": np.arange(8).astype(I32), "c": F(0.01)}),
    row("integer-bias", IMAGE, CONV.replace("e = ", "").replace("y = Conv", "e = DequantizeLinear(b, c, o) y = Conv")
        .replace("(d, v)", "(d, v, e)"), "int32 bias of Conv", kernels="integer",
        arrays={"t": np.full(8, STEP), "u": np.zeros(8, I8), "b": np.arange(8).astype(I32), "c": F(0.01), "o": I32(0)}),
    row("quantized-operand", MATRIX, "{ m = MatMul(x, f) p = QuantizeLinear(m, s, z) d = DequantizeLinear(p, s, z) "
        "e = DequantizeLinear(b, c, z) y = Mul(d, e) }", "int8 operand of Mul",
        arrays={"f": W, "b": I8(50), "c": F(0.01)}),
    row("quantized-operand", MATRIX, "{ m = MatMul(x, f) e = DequantizeLinear(b, c, z) y = Add(m, e) }",
        "int8 operand of Add", arrays={"f": W, "b": np.arange(8).astype(I8), "c": F(0.01)}, given="taken"),
    row("bare-quantized-constant", "g (int64[n] i, float[n, 8] x) => (float[n, 8] y)",
        "{ r = Gather(b, i) e = DequantizeLinear(r, c, z) y = Add(x, e) }", "int8 table behind Gather",
        arrays={"b": RNG.integers(-99, 99, (10, 8)).astype(I8), "c": F(0.01)}),
    row("per-channel-activation", MATRIX, PRODUCT.replace("r(x", "r <axis = 1> (x").replace("r(q", "r <axis = 1> (q"),
        arrays={"s": np.linspace(0.02, 0.05, 16).astype(F), "z": np.zeros(16, I8)}, given="taken", fixed="near",
        kernels="integer"),
    row("wrong-weight-axis", MATRIX, PRODUCT.replace("r(w", "r <axis = 0> (w"), "MatMul weight along K",
        arrays={"t": np.linspace(0.02, 0.05, 16).astype(F), "u": np.zeros(16, I8)}, given="taken", fixed="near",
        kernels="integer"),
    row("wrong-weight-axis", IMAGE, CONV.replace("axis = 0", "axis = 1"), "Conv weight along the input channels",
        arrays={"t": np.linspace(0.02, 0.05, 4).astype(F), "u": np.zeros(4, I8)}, given="taken", fixed="near",
        kernels="integer"),
    row("unsupported-quantized-type", SAME, "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        "int16 activation", arrays={"s": F(1e-4), "z": np.int16(0)}, opset=21, fixed="buildable"),
    row("unsupported-quantized-type", MATRIX,
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, f) }", "uint16 activation",
        arrays={"s": F(1e-4), "z": np.uint16(32768), "f": W}, opset=21, fixed="near"),
    row("unsupported-quantized-type", MATRIX,
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, f) }", "uint16 that took a Relu in",
        arrays={"s": F(1e-5), "z": np.uint16(0), "f": W}, opset=21, fixed="near"),
    row("unsupported-quantized-type", MATRIX, "{ v = DequantizeLinear(w, t) y = MatMul(x, v) }", "int16 weight",
        arrays={"w": (W * 1000).astype(np.int16), "t": F(0.001)}, opset=21),
    row("mixed-floats", HALF, "{ v = DequantizeLinear(w, t, u) y = MatMul(x, v) }", "float32 weight, float16 input",
        fixed="buildable"),
    row("mixed-floats", HALF, "{ v = DequantizeLinear(w, t, u) y = MatMul(x, v) }", "a scale that float16 cannot hold",
        arrays={"t": F(1e-6)}, fixed="buildable"),
    row("integer-operator", MATRIX, "{ q = QuantizeLinear(x, s, z) m = QLinearMatMul(q, s, z, w, t, u, c, z) "
        "y = DequantizeLinear(m, c, z) }", "QLinearMatMul", arrays={"c": F(0.2)}, kernels="integer"),
    row("integer-operator", IMAGE, "{ q = QuantizeLinear(x, s, z) m = QLinearConv <pads = [1, 1, 1, 1]> "
        "(q, s, z, k, t, u, c, z, b) y = DequantizeLinear(m, c, z) }", "QLinearConv with bias",
        arrays={"c": F(0.2), "t": np.full(8, STEP), "u": np.zeros(8, I8), "b": np.arange(8).astype(I32)},
        fixed="near", kernels="integer"),
    row("integer-operator", SAME, "{ q = QuantizeLinear(x, s, z) m = com.microsoft.QLinearAdd(q, s, z, q, s, z, c, z) "
        "y = DequantizeLinear(m, c, z) }", "QLinearAdd", arrays={"c": F(0.1)}),
    row("integer-operator", SAME, "{ q = QuantizeLinear(x, s, z) m = com.microsoft.QLinearSigmoid(q, s, z, c, z) "
        "y = DequantizeLinear(m, c, z) }", "QLinearSigmoid", arrays={"c": F(0.01)}, fixed="near"),
    row("integer-operator", "g (float[n, 16] x) => (float[n, 32] y)", "{ q = QuantizeLinear(x, s, z) "
        "m = com.microsoft.QLinearConcat <axis = 1> (c, z, q, s, z, q, s, z) y = DequantizeLinear(m, c, z) }",
        "QLinearConcat", arrays={"c": F(0.05)}),
    row("integer-operator", MATRIX, "{ q = QuantizeLinear(x, s, z) m = com.microsoft.QGemm(q, s, z, w, t, u, b, c, z) "
        "y = DequantizeLinear(m, c, z) }", "QGemm with bias", kernels="integer",
        arrays={"c": F(0.2), "b": np.arange(8).astype(I32)}),
    row("dynamic-quantization", MATRIX, "{ q, r, p = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, p, u) "
        "e = Cast <to = 1> (m) h = Mul(r, t) y = Mul(e, h) }", "DynamicQuantizeLinear and MatMulInteger", fixed="near"),
    row("dynamic-quantization", MATRIX, "{ q, r, p = DynamicQuantizeLinear(x) m = MatMulInteger(q, w, p, u) "
        "e = Cast <to = 1> (m) h = Mul(r, t) y = Mul(e, h) }", "with a uint8 weight", fixed="near",
        arrays={"w": (W8.astype(int) + 128).astype(U8), "u": U8(100)}),
    row("dynamic-quantization", MATRIX, "{ y = com.microsoft.DynamicQuantizeMatMul(x, w, c, z, b) }",
        "DynamicQuantizeMatMul", fixed="near",
        arrays={"c": np.full(8, STEP), "z": np.zeros(8, I8), "b": np.ones(8, F)}),
    row("dynamic-quantization", MATRIX, "{ q, r, p = DynamicQuantizeLinear(x) "
        "y = com.microsoft.MatMulIntegerToFloat(q, w, r, t, p) }", "MatMulIntegerToFloat", fixed="near"),
    row("asymmetric-activation", SAME, "{ q = QuantizeLinear(x, s, z) l, r = Split <axis = 1, num_outputs = 2> (q) "
        "a = DequantizeLinear(l, s, z) b = DequantizeLinear(r, s, z) y = Concat <axis = 1> (b, a) }",
        "both ways of a Split", arrays={"z": U8(90)}),
    row("integer-move", "g (float[n, 4, 8, 8] x) => (float[n, 4, 16, 16] y)", "{ q = QuantizeLinear(x, s, z) "
        'p = Resize <mode = "nearest"> (q, , r) y = DequantizeLinear(p, s, z) }', "Resize of uint8",
        arrays={"z": U8(90), "r": np.array([1, 1, 2, 2], F)}),
    row("integer-move", "g (float[n, 16] x) => (float[n, 18] y)", "{ q = QuantizeLinear(x, s, z) p = Pad(q, a, z) "
        "y = DequantizeLinear(p, s, z) }", "Pad of int8", arrays={"a": np.array([0, 1, 0, 1])}),
    row("integer-move", "g (float[n, 16] x) => (float[n, 18] y)", "{ q = QuantizeLinear(x, s, z) p = Pad(q, a) "
        "y = DequantizeLinear(p, s, z) }", "Pad of uint8 with the integer 0",
        arrays={"z": U8(90), "a": np.array([0, 1, 0, 1])}),
    row("int4-weight", MATRIX, "{ v = DequantizeLinear(w, t, u) y = MatMul(x, v) }", "int4 weight, zero point 3",
        arrays={"w": W4, "u": np.array(3, INT4)}, opset=21),
    row("int4-weight", MATRIX, "{ v = DequantizeLinear <axis = 0, block_size = 8> (w, t, u) y = MatMul(x, v) }",
        "int4 weight in blocks, zero points", opset=21,
        arrays={"w": W4, "t": np.full((2, 8), STEP), "u": np.arange(16).reshape(2, 8).clip(0, 7).astype(INT4)}),
    row("int4-weight", MATRIX, PRODUCT, "int4 weight with one scale, int8 activations", opset=21,
        arrays={"w": W4, "u": np.array(0, INT4)}, kernels="integer"),
    row("int4-weight", IMAGE, CONV.replace("r <axis = 0> (k", "r(k"), "int4 weight of Conv, int8 activations", opset=21,
        arrays={"k": (K8 // 16).astype(INT4), "u": np.array(0, INT4)}, kernels="integer"),
    row("conv-addend", "g (float[n, 4, 8] x) => (float[n, 8, 8] y)", "{ c = Conv <pads = [1, 1]> (x, k, b) "
        "y = Sub(c, f) }", "a number behind a 1-D Conv",
        arrays={"k": K8[:, :, 0].astype(F), "b": VECTOR[:8], "f": F(0.5)}, kernels="float"),
    row("conv-addend", "g (float[n, 4, 8] x) => (float[n, 8, 8] y)", "{ c = Conv <pads = [1, 1]> (x, k) "
        "e = Add(b, c) y = Sub(e, f) }", "a number behind the channels' own",
        arrays={"k": K8[:, :, 0].astype(F), "b": VECTOR[:8].reshape(1, 8, 1), "f": F(0.5)}, kernels="float"),
    row("contrib-operator", SAME, "{ y = com.microsoft.QuickGelu <alpha = 1.5> (x) }", "QuickGelu"),
    row("contrib-operator", SAME, "{ y = com.microsoft.FastGelu(x, f) }", "FastGelu", arrays={"f": VECTOR}),
    row("contrib-operator", SAME, "{ y = com.microsoft.BiasGelu(x, f) }", "BiasGelu", arrays={"f": VECTOR}),
    row("contrib-operator", TEXT, "{ y = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, x, f, b, c) }",
        "SkipLayerNormalization", arrays={"f": VECTOR, "b": VECTOR, "c": VECTOR}),
    row("contrib-operator", TEXT, "{ y = com.microsoft.SkipLayerNormalization(x, x, f) }",
        "SkipLayerNormalization before opset 17", arrays={"f": VECTOR}, opset=13),
    row("contrib-operator", "g (float[n, s, 16] x) => (float[n, s, 16] y, float[n, s, 16] t)",
        "{ y, , , t = com.microsoft.SkipLayerNormalization(x, x, f) }", "its sum", arrays={"f": VECTOR}),
    row("contrib-operator", "g (float[n, s, 16] x) => (float[n, s, 16] y, float[n, s, 1] t)",
        "{ y, t = com.microsoft.SkipLayerNormalization(x, x, f) }", "its mean", arrays={"f": VECTOR}, fixed="no"),
    row("contrib-operator", "g (int32[n, s] i) => (float[n, s, 8] y)", "{ y, m = com.microsoft.EmbedLayerNormalization"
        "(i, i, w, p, t, f, f) }", "EmbedLayerNormalization",
        arrays={"w": W, "p": W, "t": W[:2], "f": VECTOR[:8]}),
    row("contrib-operator", "g (int32[n, s] i) => (float[n, s, 8] y)", "{ y, m = com.microsoft.EmbedLayerNormalization"
        "(i, , w, p, , f, f, , i) }", "EmbedLayerNormalization with positions",
        arrays={"w": W, "p": W, "f": VECTOR[:8]}),
    row("contrib-operator", MATRIX, "{ y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, f) }", "FusedMatMul",
        arrays={"f": W.T.copy()}),
    row("contrib-operator", "g (float[n, s, 16] x) => (float[n, s, s] y)",
        "{ y = com.microsoft.FusedMatMul <transB = 1> (x, x) }", "FusedMatMul of two activations"),
    row("contrib-operator", "g (float[n, s, 16] x) => (float[n, s, s] y)",
        "{ y = com.microsoft.FusedMatMul <transBatchB = 1> (x, x) }", "FusedMatMul over the batch", fixed="no"),
    row("contrib-operator", MATRIX, '{ y = com.microsoft.FusedGemm <activation = "LeakyRelu", activation_alpha = 0.2>'
        "(x, w, f) }", "FusedGemm", arrays={"w": W, "f": VECTOR[:8]}),
    row("contrib-operator", IMAGE, '{ y = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]>'
        "(x, k, f) }", "FusedConv", arrays={"k": K8.astype(F), "f": VECTOR[:8]}),
    row("contrib-operator", "g (float[n, 4, 8, 8] x, float[n, 8, 8, 8] a) => (float[n, 8, 8, 8] y)",
        '{ y = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 6.0], pads = [1, 1, 1, 1]>'
        "(x, k, f, a) }", "FusedConv with a sum", arrays={"k": K8.astype(F), "f": VECTOR[:8]}),
    row("contrib-operator", TEXT, "{ y = com.microsoft.Attention <num_heads = 4> (x, w, b) }", "Attention",
        arrays={"w": QKV, "b": QKV[0]}),
    row("contrib-operator", "g (float[n, s, 16] x, int32[n, s] m) => (float[n, s, 16] y)",
        "{ y = com.microsoft.Attention <num_heads = 4> (x, w, b, m) }", "Attention with a mask",
        arrays={"w": QKV, "b": QKV[0]}),
    row("contrib-operator", TEXT, "{ y = com.microsoft.Attention <num_heads = 4, unidirectional = 1> (x, w, b) }",
        "causal Attention", arrays={"w": QKV, "b": QKV[0]}, fixed="no"),
    row("contrib-operator", TEXT, "{ y = com.microsoft.MultiHeadAttention <num_heads = 4> (x, x, x, b) }",
        "MultiHeadAttention with bias", arrays={"b": QKV[0]}),
    row("contrib-operator", "g (float[n, s, 16] x, int32[n, s] m, float[1, 4, s, s] a) => (float[n, s, 16] y)",
        "{ y = com.microsoft.MultiHeadAttention <num_heads = 4, mask_filter_value = -50.0> (x, x, x, , m, a) }",
        "MultiHeadAttention with masks"),  # -10000 added to scores would leave three digits of a fully masked row
    row("contrib-operator", "g (float[n, s, 16] x, float[n, 4, s, 4] k) => (float[n, s, 16] y)",
        "{ y = com.microsoft.MultiHeadAttention <num_heads = 4> (x, k, k) }", "MultiHeadAttention of split heads",
        fixed="no"),
    row("unsupported-operator", "g (float[n, 4, 4] x) => (float[n] y)", "{ y = Det(x) }", "Det", fixed="no"),
    row("unsupported-form", "g (float[n, 4, 8, 8] x) => (float[n, 4, 4, 4] y, int64[n, 4, 4, 4] i)",
        "{ y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }", "MaxPool with indices", fixed="no"),
    row("unsupported-form", "g (float[n, 3, 16] x) => (float[n, 3, 16] y, float[n, 3, 1] m)",
        "{ y, m = LayerNormalization(x, f) }", "LayerNormalization with mean",
        arrays={"f": np.ones(16, F)}, fixed="no"),
    row("unsupported-form", "g (float[n, 4, 8, 8] x) => (float[n, 4, 4, 4] y)",
        '{ y = Resize <mode = "linear", antialias = 1> (x, , r) }', "Resize with antialiasing",
        arrays={"r": np.array([1, 1, 0.5, 0.5], F)}, fixed="no"),
    row("unsupported-form", "g (float[n, 5000] x) => (float[n, 4000] y, int64[n, 4000] i)", "{ y, i = TopK(x, r) }",
        "TopK beyond the limit", arrays={"r": np.array([4000])}, fixed="no"),
    row("unsupported-form", "g (float[n, 2, s, 16] x) => (float[n, 2, s, 16] y)", "{ y = Attention(x, x, x) }",
        "Attention crashes the builder", opset=23, fixed="no"),
    row("unsupported-form", "g (float[n, 16] x) => (int64[2, m] y)", "{ y = NonZero(x) }", "NonZero", fixed="no"),
    row("unsupported-type", "g (float[n, 16] x) => (float[n, 16] y)", "{ i = Cast <to = 5> (x) y = Cast <to = 1> (i) }",
        "Cast to int16", fixed="no"),
    row("unsupported-type", "g (float[n, 16] x) => (float[n, 16] y)", "{ i = Cast <to = 2> (x) y = Cast <to = 1> (i) }",
        "computing in uint8", fixed="no"),
    row("unsupported-type", "g (float[n, 1, 1, 1, 1, 1, 1, 1, 2] x) => (float[n, 1, 1, 1, 1, 1, 1, 1, 2] y)",
        "{ y = Relu(x) }", "nine dimensions", fixed="no"),
    row("double-precision", MATRIX, "{ c = Cast <to = 11> (x) m = MatMul(c, f) y = Cast <to = 1> (m) }",
        arrays={"f": W.astype(np.float64)}, given="taken", fixed="no"),
    row("opset", SAME, "{ y = Relu(x) }", "an opset that the parser warns of", opset=6, given="taken", fixed="no"),
    row("uncovered-dimension", "g (float[?, 16] x) => (float[?, 16] y)", "{ y = Relu(x) }", "a dimension with no name",
        fixed="no"),
]  # fmt: skip


def test_every_rule_has_a_row():
    assert {row.rule for row in ROWS} == {rule.name for rule in tensorrt_rules()}


def write(row, folder):
    model = parse_model(row.model, opset=row.opset)
    used = {name for node in model.graph.node for name in node.input}
    for name, array in row.arrays.items():
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    path = folder / "given.onnx"
    onnx.save(model, path)
    return path, model


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_each_row_holds_on_the_real_builder(row, tmp_path):
    path, model = write(row, tmp_path)
    findings = [finding for finding in lint_model(path, "tensorrt-rtx") if finding.rule == row.rule]
    assert findings, "the lint does not see it"
    assert (rtx.build(path).__class__ is str) == (row.given == "refused")
    fixed = tmp_path / "fixed.onnx"
    result = fix_model(path, fixed, "tensorrt-rtx")
    if row.fixed == "no":
        assert all(finding.fix is None for finding in findings)
        assert row.rule in {finding.rule for finding in result.after}
        return
    assert all(finding.fix for finding in findings)
    assert result.after == ()
    kernels = rtx.build(fixed)
    assert not isinstance(kernels, str), kernels
    if row.kernels is not None:
        assert kernels[row.kernels] == sum(kernels.values()) > 0
    if row.fixed != "buildable":
        same_numbers(path, fixed, model, 1e-5 if row.fixed == "exact" else 0.03)


def same_numbers(path, fixed, model, tolerance):
    old, new = open_model(path), open_model(fixed)
    for seed, size in enumerate((1, 3, 8)):
        feeds = feeds_for(model, {"n": size, "s": 4}, seed)
        for name, expected in old(feeds).items():
            error = np.abs(expected.astype(np.float64) - new(feeds)[name]).max()
            # One step of an output that is itself quantized may flip where a value lies between two integers.
            assert error <= tolerance * max(np.abs(expected).max(), 1), (name, error)


def test_fixing_twice_changes_nothing(tmp_path):
    for index, row in enumerate(row for row in ROWS if row.fixed != "no"):
        folder = tmp_path / str(index)
        folder.mkdir()
        path, _ = write(row, folder)
        fix_model(path, folder / "once.onnx")
        again = fix_model(folder / "once.onnx", folder / "twice.onnx")
        assert again.changed == 0, row.label
