import engine_models as models
import numpy as np
import pytest

from enginery.engines.kernels import kernel_facts
from enginery.engines.onnxruntime_kernels import read_kernels


def kinds(model, folder):
    return {kernel.node: kernel.kind for kernel in read_kernels(models.save(model, folder))}


def test_a_float_model_has_float_kernels(tmp_path):
    kernels = read_kernels(models.save(models.linear(), tmp_path))
    assert [(k.node, k.op, k.kind, k.heavy) for k in kernels] == [
        ("product", "MatMul", "float", True),
        ("relu", "Relu", "float", False),
    ]


def test_integers_are_followed_through_nodes_that_move_them(tmp_path):
    body = """{ q = QuantizeLinear(x, s, z)  p = Transpose(q)  r = Reshape(p, n)
                h = QLinearMatMul(r, s, z, w, s, v, s, z)  y = DequantizeLinear(h, s, z) }"""
    model = models.parse(body)
    models.add(
        model, s=np.float32(0.1), z=np.uint8(3), w=np.zeros((16, 8), np.int8), v=np.int8(0), n=np.array([-1, 16])
    )
    names = ["q", "transpose", "reshape", "product", "d"]
    assert kinds(models.name_nodes(model, *names), tmp_path) == {
        "q": "quantize",
        "transpose": "integer",
        "reshape": "integer",
        "product": "integer",
        "d": "quantize",
    }


def test_shape_arithmetic_is_neither(tmp_path):
    model = models.parse(
        "{ n = Shape(x)  m = Mul(n, k)  e = Equal(m, n)  i = Cast<to=6>(x)  j = Add(i, i)  y = Relu(x) }"
    )
    models.add(model, k=np.array([2, 2]))
    found = kinds(models.name_nodes(model, "shape", "mul", "equal", "cast", "add", "relu"), tmp_path)
    assert found == {
        "shape": "float",
        "mul": "other",
        "equal": "other",
        "cast": "float",
        "add": "other",
        "relu": "float",
    }


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("com.microsoft.MatMulNBits<K=16, N=8, bits=4, block_size=16>(x, w, t)", "weight-only"),
        ("com.microsoft.DynamicQuantizeMatMul(x, w, t)", "integer"),
        ("com.microsoft.MatMulIntegerToFloat(q, w, t, t)", "integer"),
        ("MatMulInteger(q, w)", "integer"),
    ],
)
def test_the_runtimes_own_operators(tmp_path, operator, kind):
    model = models.parse(f"{{ q, s, z = DynamicQuantizeLinear(x)  h = {operator}  y = Cast<to=1>(h) }}")
    models.add(model, w=np.zeros((16, 8), np.uint8), t=np.float32(1))
    found = kinds(models.name_nodes(model, "quantize", "product", "cast"), tmp_path)
    assert found["product"] == kind
    # MatMulInteger gives int32, the others float.
    assert found["cast"] == ("other" if operator.startswith("MatMulInteger(") else "float")


def test_nodes_of_subgraphs_are_listed(tmp_path):
    signature = "(float[batch, 16] x, bool c) => (float[batch, 16] y)"
    branch = "g () => (float[batch, 16] o) { o = Relu(x) }"
    model = models.parse(f"{{ y = If(c) <then_branch = {branch}, else_branch = {branch}> }}", signature=signature)
    kernels = read_kernels(models.save(model, tmp_path))
    assert [(k.op, k.kind) for k in kernels] == [("If", "other"), ("Relu", "float"), ("Relu", "float")]


def test_facts_count_by_kind_and_leave_shape_nodes_out(tmp_path):
    facts = kernel_facts(read_kernels(models.save(models.quantized_linear(), tmp_path)))
    assert facts["counts"] == {"integer": 0, "weight-only": 0, "quantize": 3, "float": 2, "other": 0}
    assert facts["heavy"]["float"] == 1
    assert [node["node"] for node in facts["nodes"]] == ["quantize", "dequantize", "weight", "product", "relu"]
