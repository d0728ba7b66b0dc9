"""Static int8 end to end: placement, numbers and kernels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import parse_model
from quantizable import ModelBuilder, calibrate, conv_net, images, mlp_block, normal_batches, run_all, sequences, snr

from enginery.engines.onnxruntime import open_model
from enginery.errors import InvalidModelError, StatisticsError
from enginery.passes.base import PassResult
from enginery.passes.graph.ir import load_graph
from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
from enginery.passes.quantize.plan import make_plan


def quantize(model: Path, batches, policy: str, **options) -> tuple[Path, PassResult]:
    output = model.with_name(f"{policy}.onnx")
    result = quantize_model(
        model,
        output,
        calibrate(model, batches),
        policy=get_policy(policy),
        options=QuantizeOptions(passes=(), **options),
        open_model=open_model,
        batches=batches,
    )
    onnx.checker.check_model(onnx.load(output), full_check=True)
    return output, result


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
@pytest.mark.parametrize(("build", "batches"), [(conv_net, images()), (mlp_block, sequences())])
def test_the_quantized_model_answers_like_the_float_one(tmp_path: Path, build, batches, policy: str) -> None:
    model = build(tmp_path / "model.onnx")
    output, result = quantize(model, batches, policy)
    assert result.changed >= 4
    assert snr(run_all(model, batches), run_all(output, batches)) > 18


def images_of(channels: int):
    return normal_batches("image", *[(4, channels, 16, 16)] * 4)


def kernels(model: Path, folder: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model), options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_a_residual_stays_integer_behind_a_pad(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 8)], "first.act")
    pads = b.weight("pads", np.array([0, 4, 0, 0, 0, 4, 0, 0]))
    skip = b.op("Pad", [x, pads], "skip")
    b.op("Relu", [b.op("Add", [b.conv(x, "main", 8, 16), skip], "sum")], "out")
    output, _ = quantize(b.save(tmp_path / "model.onnx", "out"), images(), "onnxruntime-cpu")
    ops = kernels(output, tmp_path)
    assert ops["QLinearAdd"] == 1
    assert ops["Add"] == ops["Relu"] == 0


def test_a_residual_stays_integer_behind_a_layer_in_float(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 3, 16, 16)})
    x = b.op("Relu", [b.conv("image", "first", 3, 8)], "first.act")
    for block in ("one", "two"):
        y = b.conv(b.op("Relu", [b.conv(x, f"{block}.a", 8, 8)], f"{block}.act"), f"{block}.b", 8, 8)
        x = b.op("Relu", [b.op("Add", [y, x], f"{block}.sum")], f"{block}.out")
    output, _ = quantize(b.save(tmp_path / "model.onnx", x), images(), "onnxruntime-cpu", keep_float=("first.*",))
    ops = kernels(output, tmp_path)
    assert ops["Conv"] == 1
    assert ops["QLinearAdd"] == 2
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 1


def test_a_residual_beside_a_tensor_that_nothing_quantized_reads_stays_float(tmp_path: Path) -> None:
    """A pair for the Add alone would round what nobody else has in integers."""
    b = ModelBuilder({"image": ("batch", 8, 16, 16)})
    skip = b.op("Exp", ["image"], "skip")
    b.op("Add", [b.conv("image", "main", 8, 8), skip], "sum")
    output, _ = quantize(b.save(tmp_path / "model.onnx", "sum"), images_of(8), "onnxruntime-cpu")
    (add,) = (node for node in onnx.load(output).graph.node if node.op_type == "Add")
    assert "skip" in add.input


def test_tensors_around_a_concat_share_one_scale(tmp_path: Path) -> None:
    b = ModelBuilder({"image": ("batch", 8, 16, 16)})
    loud = b.op("Mul", ["image", b.weight("ten", np.float32(10))], "loud")
    joined = b.op("Concat", ["image", loud], "joined", axis=1)
    outputs = [b.conv("image", "one", 8, 8), b.conv(loud, "two", 8, 8), b.conv(joined, "three", 16, 8)]
    model = b.save(tmp_path / "model.onnx", *outputs)
    output, _ = quantize(model, images_of(8), "tensorrt")
    graph = onnx.load(output).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {
        node.input[0]: float(values[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and values[node.input[1]].ndim == 0
    }
    reach = calibrate(model, images_of(8)).tensors["loud"]
    expected = pytest.approx(max(-reach.low, reach.high) / 127)
    assert scales == dict.fromkeys(("image", "loud", "joined"), expected)


def test_onnxruntime_gets_integer_kernels_throughout_a_conv_net(tmp_path: Path) -> None:
    output, _ = quantize(conv_net(tmp_path / "model.onnx"), images(), "onnxruntime-cpu")
    ops = kernels(output, tmp_path)
    assert ops["QLinearConv"] == 7
    assert ops["QGemm"] == 1
    assert ops["Conv"] == ops["Gemm"] == 0


def test_statistics_are_required_and_must_be_of_this_graph(tmp_path: Path) -> None:
    model, other = conv_net(tmp_path / "model.onnx"), conv_net(tmp_path / "other.onnx", seed=1)
    arguments = {
        "policy": get_policy("tensorrt"),
        "options": QuantizeOptions(),
        "open_model": open_model,
        "batches": None,
    }
    with pytest.raises(StatisticsError, match="needs statistics"):
        quantize_model(model, tmp_path / "out.onnx", None, **arguments)
    with pytest.raises(StatisticsError, match="belong to graph"):
        quantize_model(model, tmp_path / "out.onnx", calibrate(other, images()), **arguments)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "model.onnx")
    first = quantize(model, images(), "onnxruntime-cpu")[0].read_bytes()
    assert quantize(model, images(), "onnxruntime-cpu")[0].read_bytes() == first


def test_a_name_that_the_graph_has_not_is_told(tmp_path: Path) -> None:
    model = mlp_block(tmp_path / "model.onnx")
    names = [node.name for node in onnx.load(model).graph.node if node.op_type == "MatMul"]
    _, result = quantize(model, sequences(), "onnxruntime-cpu", keep_float=(names[0], "nosuch.*"))
    told = {refusal.node: refusal.reason for refusal in result.refusals}
    assert told[names[0]] == "kept in float: an option names it"
    assert "no node, module or weight of this graph is called so" in told["nosuch.*"]


@pytest.mark.parametrize("mode", ["int8", "int8-dynamic", "int4-weight"])
def test_a_model_in_half_precision_is_refused(tmp_path: Path, mode) -> None:
    b = ModelBuilder({"x": ("batch", 8)})
    half = b.op("Cast", ["x"], "half", to=onnx.TensorProto.FLOAT16)
    product = b.op("MatMul", [half, b.weight("w", np.ones((8, 4), np.float16))], "product")
    model = b.save(tmp_path / "model.onnx", b.op("Cast", [product], "y", to=onnx.TensorProto.FLOAT))
    with pytest.raises(InvalidModelError, match="from a float32 model, and the weight of 'node_product' is float16"):
        quantize_model(
            model, tmp_path / "out.onnx", None,
            policy=get_policy("onnxruntime-cpu"), options=QuantizeOptions(mode=mode),
            open_model=open_model, batches=None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("y = Relu(a)", "add raise-opset{version=13} to `graph_passes`"),
        (
            "b = Unsqueeze<axes: ints = [2]>(a) c = Concat<axis: int = 2>(b, b) y = Softmax(c)",
            "it spans the axes from 1",
        ),
    ],
)
def test_an_opset_without_pairs_per_channel_is_refused(tmp_path: Path, tail, reason) -> None:
    text = f"g (float[N, 4] x) => (float y) <float[4, 4] w = {{{', '.join('1' * 16)}}}> {{ a = MatMul(x, w) {tail} }}"
    model = tmp_path / "model.onnx"
    onnx.save(parse_model(text, opset=11), model)
    statistics = calibrate(model, lambda: iter([{"x": np.ones((2, 4), np.float32)}] * 2))
    with pytest.raises(InvalidModelError, match=re.escape(reason)):
        quantize_model(
            model, tmp_path / "out.onnx", statistics,
            policy=get_policy("onnxruntime-cpu"), options=QuantizeOptions(),
            open_model=open_model, batches=None,
        )  # fmt: skip


def test_where_only_an_index_comes_out_the_logits_tell_which_remedy_helps(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", 16)})
    logits = b.linear(b.op("Relu", [b.linear("x", "first", 16, 32)], "act"), "second", 32, 10)
    model = b.model(logits)
    model.graph.node.append(onnx.helper.make_node("ArgMax", [logits], ["best"], axis=1))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None))
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((8, 16)).astype(np.float32)} for _ in range(4)]
    result = quantize_model(
        tmp_path / "model.onnx", tmp_path / "out.onnx", calibrate(tmp_path / "model.onnx", lambda: iter(data)),
        policy=get_policy("onnxruntime-cpu"), options=QuantizeOptions(),
        open_model=open_model, batches=lambda: iter(data),
    )  # fmt: skip
    measured = [step["after_db"] for step in result.details["remedies"] if step["after_db"] is not None]
    assert measured
    assert all(20 < figure < 60 for figure in measured)
    assert [value.name for value in onnx.load(tmp_path / "out.onnx").graph.output] == ["best"]


def test_layers_in_the_body_of_an_if_are_named(tmp_path: Path) -> None:
    text = """g (float[N, 4] x, bool c) => (float[N, 4] y) <float[4, 4] w = {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}>
        { a = MatMul(x, w)
          y = If(c) <then_branch = t () => (float[N, 4] p) { [inside] p = MatMul(a, w) },
                     else_branch = e () => (float[N, 4] q) { q = Neg(a) }> }"""
    onnx.save(parse_model(text), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 4)).astype(np.float32), "c": np.array(n % 2 == 0)} for n in range(4)]
    output, result = quantize(tmp_path / "model.onnx", lambda: feeds, "onnxruntime-cpu")
    assert result.changed == 1
    assert any(each.node == "inside" and "bodies stay in float" in each.reason for each in result.refusals)
    assert snr(run_all(tmp_path / "model.onnx", lambda: feeds), run_all(output, lambda: feeds)) > 18


def test_a_weight_that_callers_may_set_stays_in_float(tmp_path: Path) -> None:
    text = "g (float[N, 2] x, float[2, 2] w) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
    onnx.save(parse_model(text), tmp_path / "model.onnx")

    graph = load_graph(tmp_path / "model.onnx")
    plan = make_plan(graph, get_policy("onnxruntime-cpu"), QuantizeOptions(), {})
    assert plan.compute == []
    assert "computed, not constant" in plan.refusals[0].reason


def test_a_model_with_nothing_to_quantize_stays_as_it_is(tmp_path: Path) -> None:
    b = ModelBuilder({"x": ("batch", 4)})
    model = b.save(tmp_path / "model.onnx", b.op("Exp", ["x"], "y"))
    batches = lambda: [{"x": np.full((2, 4), n, np.float32)} for n in range(4)]  # noqa: E731
    output, result = quantize(model, batches, "onnxruntime-cpu")
    assert (result.changed, result.details["depth"]) == (0, [])
    np.testing.assert_array_equal(run_all(model, batches), run_all(output, batches))
