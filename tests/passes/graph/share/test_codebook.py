import numpy as np
import onnx
import pytest
from graphs import apply
from onnx import TensorProto, helper, numpy_helper

from enginery.errors import UsageError
from enginery.passes.graph.share.codebook import StoreCodebooks


def model_with(weight, *, opset=20, overridable=False):
    """y = x @ weight."""
    proto = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[weight.dtype.type]
    inputs = [helper.make_tensor_value_info("x", proto, ["N", weight.shape[0]])]
    if overridable:
        inputs.append(helper.make_tensor_value_info("w", proto, weight.shape))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mul")],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", proto, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def weight_with(values, zeros=0.0, shape=(63, 37), dtype=np.float32):
    random = np.random.default_rng(0)
    codebook = random.permutation(np.linspace(-1, 1, values + values % 2))[:values].astype(dtype)
    weight = codebook[random.integers(0, values, shape)]
    weight[random.random(shape) < zeros] = 0
    return weight


def size_of(folder, name):
    return (folder / name).stat().st_size


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("values", [2, 4, 13, 200])
@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_few_values_become_a_look_up(tmp_path, values, zeros, dtype):
    done = apply(StoreCodebooks(), model_with(weight_with(values, zeros, dtype=dtype)), tmp_path)
    assert done.result.changed == 1
    stored = done.result.details["stored"]["w"]
    assert stored["values"] <= values + 1
    assert stored["bytes"][1] < stored["bytes"][0]
    assert size_of(tmp_path, "after.onnx") < size_of(tmp_path, "before.onnx")
    assert "Gather" in done.ops
    assert done.graph.nodes[-1].inputs[1].name == "w"


@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_the_weight_is_the_same_bit_for_bit(tmp_path, zeros):
    weight = weight_with(13, zeros)
    eye = {"x": np.eye(len(weight), dtype=np.float32)}
    apply(StoreCodebooks(), model_with(weight), tmp_path, feeds=[eye], tolerance=0.0)


def test_a_pruned_and_shared_weight_takes_a_code_for_each_non_zero_and_a_bit_for_each_element(tmp_path):
    weight = weight_with(200, 0.67, shape=(256, 128))
    done = apply(StoreCodebooks(), model_with(weight), tmp_path)
    stored = done.result.details["stored"]["w"]
    assert stored["sparse"]
    assert stored["bytes"][1] == np.count_nonzero(weight) + weight.size // 8 + 4 * stored["values"]


def test_the_runtime_folds_the_look_up_when_it_opens_the_model(tmp_path):
    import onnxruntime

    apply(StoreCodebooks(), model_with(weight_with(13, 0.7)), tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(tmp_path / "after.onnx"), options, providers=["CPUExecutionProvider"])
    opened = onnx.load(tmp_path / "opened.onnx")
    assert [node.op_type for node in opened.graph.node] == ["MatMul"]


def test_many_values_are_counted_and_small_weights_ignored(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    done = apply(StoreCodebooks(), model_with(weight), tmp_path)
    assert (done.result.changed, done.result.details["with_more_values"]) == (0, 1)
    done = apply(StoreCodebooks(), model_with(weight_with(3, shape=(8, 8))), tmp_path)
    assert (done.result.changed, done.result.refusals) == (0, ())


def test_refusals(tmp_path):
    done = apply(StoreCodebooks(), model_with(weight_with(4), overridable=True), tmp_path, feeds=[])
    assert "w: not stored by codes: it is also an input" in done.reasons
    done = apply(StoreCodebooks(), model_with(weight_with(4), opset=17), tmp_path)
    assert "need BitwiseAnd of opset 18; the model has 17" in done.reasons
    done = apply(StoreCodebooks(least=16), model_with(weight_with(64, shape=(8, 8), dtype=np.float16)), tmp_path)
    assert "bytes instead of 128" in done.reasons


def test_eight_bit_codes_need_no_new_opset(tmp_path):
    done = apply(StoreCodebooks(), model_with(weight_with(200), opset=17), tmp_path)
    assert done.result.changed == 1


def test_codes_beyond_a_byte_are_wrong_usage():
    with pytest.raises(UsageError, match="codes=1000"):
        StoreCodebooks(codes=1000)
