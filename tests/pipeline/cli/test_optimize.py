"""enginery optimize on an ONNX file."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import parse_model

from enginery.engines.onnxruntime import open_model
from enginery.pipeline.cli.main import cli

TEXT = """g (float[N, 4] x) => (float[N, 4] y)
    <float two = {1.4142135}, float one = {1}, float half = {0.5}>
    { [same] s = Identity(x) a = Div(s, two) e = Erf(a) b = Add(e, one) c = Mul(s, b) y = Mul(c, half) }"""


@pytest.fixture
def model(tmp_path):
    onnx.save(parse_model(TEXT), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "out.onnx"


def optimize(*args):
    return CliRunner().invoke(cli, ["optimize", *map(str, args)])


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_defaults_of_a_target(model, out):
    result = optimize(model, "--target", "onnxruntime-cpu", "-o", out)
    assert result.exit_code == 0, result.output
    assert "6 -> 1 nodes" in result.stdout
    assert "each pass was proved on 3 sets of inputs" in result.stdout
    assert "disabled_optimizers=['SkipLayerNormFusion']" in result.stdout
    assert ops(out) == ["Gelu"]
    assert [path.name for path in out.parent.iterdir()] == ["out.onnx"]
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    before, after = (open_model(path)({"x": x})["y"] for path in (model, out))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_the_same_bytes_twice(model, tmp_path):
    for name in ("a", "b"):
        assert optimize(model, "-o", tmp_path / f"{name}.onnx").exit_code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_named_passes_with_options(model, out):
    result = optimize(model, "-o", out, "--passes", "remove-identities,fold-constants{limit=8}", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [each["spec"] for each in found["passes"]] == ["remove-identities", "fold-constants{limit=8}"]
    assert ops(out) == ["Div", "Erf", "Add", "Mul", "Mul"]


def test_explain_says_what_each_pass_changed_and_refused(model, out, tmp_path):
    text = TEXT.replace("=> (float[N, 4] y)", "=> (float[N, 4] y, float[N, 4] e)")
    onnx.save(parse_model(text), model)
    result = optimize(model, "-o", out, "--explain")
    assert "remove-identities: 1 changes, 6 -> 5 nodes, largest error 0 of the output's scale" in result.stdout
    assert "fuse-gelu: not rewritten: 'e' is a graph output" in result.stdout


@pytest.mark.parametrize(
    ("prove", "words"), [("off", "nothing was proved"), ("end", "all passes together were proved")]
)
def test_the_proof_is_chosen(model, out, prove, words):
    assert words in optimize(model, "-o", out, "--prove", prove).stdout


def test_real_inputs_are_used_for_the_proof(model, out, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((7, 4), np.float32))
    result = optimize(model, "-o", out, "--inputs", tmp_path / "x.npz")
    assert "proved on 1 set of inputs" in result.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--passes", "fuse-gel"], "Did you mean 'fuse-gelu'?"),
        (["--passes", "fold-constants{limits=8}"], "its options are limit=int"),
        (["--passes", "fold-constants{limit=8"], "is not closed"),
        (["--passes", ","], "The list of passes is empty"),
        (["--passes", "absent.py:Mine"], "there is no file"),
        (["--target", "tensorr"], "There is no target 'tensorr'"),
        (["--optimise"], "No such option"),
        (["--inputs", "absent.npz"], "There is no file absent.npz"),
        (["--passes", "convert-to-half{to=bfloat16}"], "onnxruntime-cpu has no kernels for bfloat16"),
        (["--to", "folder"], "go with a recipe"),
    ],
)
def test_wrong_usage(model, out, args, words):
    result = optimize(model, "-o", out, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not out.exists()


def test_a_result_that_cannot_run_here(model, out):
    args = ["-o", out, "--target", "onnxruntime-cuda", "--passes", "convert-to-half{to=bfloat16}"]
    result = optimize(model, *args)
    assert result.exit_code == 1
    assert "cannot be run here to prove it" in result.stderr
    assert not out.exists()
    assert optimize(model, *args, "--prove", "off").exit_code == 0


def test_a_file_is_never_overwritten(model, out):
    out.parent.mkdir()
    for name in ("out.onnx", "out.onnx.data"):
        (out.parent / name).write_text("mine")
        result = optimize(model, "-o", out)
        assert result.exit_code == 2
        assert f"{name} exists" in result.stderr
        assert (out.parent / name).read_text() == "mine"
        (out.parent / name).unlink()


def test_without_a_file_to_write(model):
    result = optimize(model)
    assert result.exit_code == 2
    assert "--output OUT.onnx" in result.stderr


def test_absent_damaged_and_wrong_models(model, out):
    assert optimize(model.with_name("absent.onnx"), "-o", out).exit_code == 2
    model.write_bytes(model.read_bytes()[:40])
    assert optimize(model, "-o", out).exit_code == 1
    onnx.save(parse_model("g (float[N] x) => (float[N] y) { y = Relu(z) }"), model)
    result = optimize(model, "-o", out)
    assert result.exit_code == 1
    assert "z" in result.stderr
    assert not out.exists()


def test_options_of_files_are_none_of_recipes(tmp_path):
    assert "go with an ONNX file" in optimize("digits", "--passes", "fuse-gelu").stderr
    (tmp_path / "file").write_text("")
    assert "is a file" in optimize("digits", "-o", tmp_path / "file").stderr
