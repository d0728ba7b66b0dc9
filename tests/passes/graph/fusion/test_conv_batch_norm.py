import numpy as np
import onnx
import pytest
from graphs import apply
from onnx import TensorProto, helper, numpy_helper

from enginery.passes.graph.fusion.conv_batch_norm import FuseConvBatchNorm


def model(*, op="Conv", group=1, bias=True, shared=False, batch_norm=None, outputs=("y",), variance=None, frozen=True):
    rng = np.random.default_rng(0)
    shape = {"Conv": (6, 4 // group, 3, 3), "ConvTranspose": (4, 6 // group, 3, 3)}[op]
    weights = {
        "w": rng.standard_normal(shape),
        "o": rng.standard_normal(6),
        "scale": rng.standard_normal(6),
        "bias": rng.standard_normal(6),
        "mean": rng.standard_normal(6),
        "variance": rng.random(6) + 0.1 if variance is None else variance,
    }
    nodes = [
        helper.make_node(op, ["x", "w", "o"][: 3 if bias else 2], ["c"], "conv", group=group, pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["y"], **(batch_norm or {})),
    ]
    if shared:
        nodes.append(helper.make_node(op, ["x", "w"], ["z"], "twin", group=group, pads=[1, 1, 1, 1]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, "H", "W"])]
    if not frozen:
        inputs.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [6]))
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6, "H", "W"]) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feeds(seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((n, 4, h, w)).astype(np.float32)} for n, h, w in ((1, 5, 4), (3, 3, 7))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "group"), [("Conv", 1), ("Conv", 2), ("ConvTranspose", 1)])
def test_the_batch_norm_goes_into_the_weights(op, group, bias, tmp_path):
    done = apply(FuseConvBatchNorm(), model(op=op, group=group, bias=bias), tmp_path, feeds=feeds())
    assert done.ops == [op]
    assert len(done.graph.nodes[0].inputs) == 3


def test_a_variance_near_zero(tmp_path):
    proto = model(variance=np.array([1e-12, 1e-8, 1, 1, 100, 1e4]))
    assert apply(FuseConvBatchNorm(), proto, tmp_path, feeds=feeds()).ops == ["Conv"]


def test_a_shared_weight_keeps_its_values_for_the_others(tmp_path):
    done = apply(FuseConvBatchNorm(), model(shared=True, outputs=("y", "z")), tmp_path, feeds=feeds())
    assert done.ops == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"op": "ConvTranspose", "group": 2}, "transposed convolution in 2 groups"),
        ({"frozen": False}, "'scale' is no constant"),
        ({"outputs": ("y", "c")}, "'c' is a graph output"),
    ],
)
def test_what_cannot_be_folded_is_left_with_a_reason(options, reason, tmp_path):
    done = apply(FuseConvBatchNorm(), model(**options), tmp_path, feeds=feeds())
    assert done.result.changed == 0
    assert reason in done.reasons


def test_a_batch_norm_in_training_mode_is_left():
    from enginery.passes.graph.ir import import_model
    from enginery.passes.graph.shapes import infer_shapes

    proto = model(batch_norm={"training_mode": 1})
    proto.graph.node[1].output.extend(["running_mean", "running_var"])
    graph = import_model(onnx.ModelProto.FromString(proto.SerializeToString()), __import__("pathlib").Path())
    infer_shapes(graph)
    result = FuseConvBatchNorm().apply(graph)
    assert "training mode" in str(result.refusals[0])
