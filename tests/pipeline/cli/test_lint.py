"""enginery lint on real files, and the same check before a build."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import parse_model

from enginery.engines import BuildSpec, DimRange, TensorSpec, get_engine
from enginery.errors import EngineError
from enginery.pipeline.cli.main import cli
from enginery.pipeline.stages.compile import compile_engine, open_artifact

SIGNATURE = "g (float[n, 4] x) => (float[n, 4] y)"
GOOD = f"{SIGNATURE} {{ y = Relu(x) }}"
FIXABLE = f"""{SIGNATURE} <float s = {{0.1}}, uint8 z = {{3}}>
    {{ [quant] q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }}"""
HOPELESS = f"{SIGNATURE} <int64[4] p = {{0, 0, 0, 0}}> {{ [odd] y = com.microsoft.Pad(x, p) }}"


@pytest.fixture
def save(tmp_path):
    def write(text, name="model.onnx", **options):
        path = tmp_path / name
        onnx.save(parse_model(text, **options), path)
        return path

    return write


def lint(*args):
    return CliRunner().invoke(cli, ["lint", *map(str, args)])


def test_a_good_model_passes(save):
    result = lint(save(GOOD))
    assert (result.exit_code, result.stdout) == (0, "No findings.\n")


def test_an_error_is_said_and_exits_with_one(save):
    result = lint(save(FIXABLE))
    assert result.exit_code == 1
    assert "error: quant: is uint8 with zero point 3" in result.stdout
    assert "1 finding." in result.stdout


def test_the_fix_is_written_and_measured(save, tmp_path):
    fixed = tmp_path / "fixed.onnx"
    result = lint(save(FIXABLE), "--fix", fixed)
    assert result.exit_code == 0, result.output
    assert "1 findings, 0 left after" in result.stdout
    assert "output 'y': largest error" in result.stdout
    assert lint(fixed).exit_code == 0


def test_what_cannot_be_fixed_still_exits_with_one(save, tmp_path):
    result = lint(save(HOPELESS), "--fix", tmp_path / "fixed.onnx")
    assert result.exit_code == 1
    assert "odd: is com.microsoft.Pad" in result.stdout


def test_a_model_that_cannot_be_run_is_fixed_and_says_so(save, tmp_path):
    text = (
        "g (float16[n, 4] x) => (float16[n, 4] y) <int8[4, 4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float s = {0.1}>"
    )
    result = lint(save(f"{text} {{ v = DequantizeLinear(w, s)  y = MatMul(x, v) }}"), "--fix", tmp_path / "fixed.onnx")
    assert result.exit_code == 0, result.output
    assert "not compared with the given model" in result.stdout


def test_a_model_on_which_onnxruntime_aborts_is_fixed_and_says_so(save, tmp_path):
    body = "q = QuantizeLinear(x, s, z) m = com.microsoft.QLinearSigmoid(q, s, , s, ) y = DequantizeLinear(m, s, z)"
    text = f"{SIGNATURE} <float s = {{0.1}}, int8 z = {{0}}> {{ {body} }}"
    fixed = tmp_path / "fixed.onnx"
    result = lint(save(text), "--fix", fixed)
    assert result.exit_code == 0, result.output
    assert "not compared with the given model: ONNX Runtime was killed by SIG" in result.stdout
    assert "on model.onnx" in result.stdout
    assert lint(fixed).exit_code == 0


def test_json_holds_everything(save, tmp_path):
    result = lint(save(FIXABLE), "--fix", tmp_path / "fixed.onnx", "--json")
    report = json.loads(result.stdout)
    assert report["passes"]
    assert report["findings"][0]["rule"] == "asymmetric-activation"
    assert report["fixed"]["after"] == []
    assert report["fixed"]["differences"][0]["output"] == "y"


def test_an_unknown_target_is_wrong_usage(save):
    result = lint(save(GOOD), "--target", "onnxruntime-cpu")
    assert result.exit_code == 2
    assert "no lint for the target" in result.stderr


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"PK\x03\x04")
    assert lint(path).exit_code == 1


def compile_model(path, tmp_path, target="tensorrt-rtx", dims=("n",)):
    spec = BuildSpec(
        (TensorSpec("x", "float32", ("n", 4)),),
        (TensorSpec("y", "float32", ("n", 4)),),
        {name: DimRange(1, 2, 4) for name in dims},
    )
    folder = tmp_path / "compiled"
    folder.mkdir()
    compile_engine(folder, engine=get_engine(target), model=path, spec=spec)
    return open_artifact(folder)


def test_a_build_stops_before_tensorrt_takes_the_graph_for_something_else(save, tmp_path):
    text = FIXABLE.replace("uint8 z = {3}", "uint8 z = {0}")
    with pytest.raises(EngineError, match=r"(?s)uint8 with zero point 0; TensorRT takes it for int8.*conform-tensorrt"):
        compile_model(save(text), tmp_path)
    assert not (tmp_path / "compiled" / "engine").exists()


def test_other_targets_are_not_concerned(save, tmp_path):
    assert compile_model(save(FIXABLE), tmp_path, "onnxruntime-cpu").facts["kernels"]


def test_a_warning_is_recorded(save, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    body = "{ q = QuantizeLinear <axis = 1> (x, s, z)  y = DequantizeLinear <axis = 1> (q, s, z) }"
    text = f"{SIGNATURE} <float[4] s = {{0.1, 0.2, 0.3, 0.4}}, int8[4] z = {{0, 0, 0, 0}}> {body}"
    artifact = compile_model(save(text), tmp_path)
    assert {each["rule"] for each in artifact.facts["conformance"]} == {"per-channel-activation"}


def test_a_crash_of_the_builder_comes_with_the_warning(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    if get_engine("tensorrt-rtx").cannot_run() is None:
        pytest.skip("with a GPU the builder need not crash")
    path = tmp_path / "model.onnx"
    text = "g (float[n, 2, 3, 4] x) => (float[n, 2, 3, 4] y) { y = Attention(x, x, x) }"
    onnx.save(parse_model(text, opset=23), path)
    tensor = ("float32", ("n", 2, 3, 4))
    spec = BuildSpec((TensorSpec("x", *tensor),), (TensorSpec("y", *tensor),), {"n": DimRange(1, 2, 4)})
    (tmp_path / "compiled").mkdir()
    with pytest.raises(EngineError, match=r"(?s)SIGSEGV.*lower it to MatMul and Softmax"):
        compile_engine(tmp_path / "compiled", engine=get_engine("tensorrt-rtx"), model=path, spec=spec)


def test_defaults_of_onnxruntimes_quantizer_come_out_buildable(tmp_path):
    """The file that `quantize_static` writes with its defaults, before and after `lint --fix`."""
    pytest.importorskip("tensorrt_rtx")
    import rtx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    rng = np.random.default_rng(0)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)])

        def get_next(self):
            return next(self.batches, None)

    text = """g (float[n, 3, 8, 8] x) => (float[n, 5] y)
        { c = Conv <pads = [1, 1, 1, 1]> (x, k, b)  r = Relu(c)
          p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)  s = Sigmoid(p)  a = Add(s, p)
          m = GlobalAveragePool(a)  f = Flatten(m)  g = Gemm(f, w, v)  y = Softmax(g) }"""
    model = parse_model(text)
    shapes = {"k": (4, 3, 3, 3), "b": (4,), "w": (4, 5), "v": (5,)}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Reader())
    assert "refuses the model" in str(rtx.build(tmp_path / "int8.onnx"))
    result = lint(tmp_path / "int8.onnx", "--fix", tmp_path / "fixed.onnx", "--json")
    assert result.exit_code == 0, result.output
    kernels = rtx.build(tmp_path / "fixed.onnx")
    assert not isinstance(kernels, str), kernels
    assert (kernels["integer"], kernels["float"]) == (2, 0)
    assert json.loads(result.stdout)["fixed"]["differences"][0]["relative"] < 0.05
