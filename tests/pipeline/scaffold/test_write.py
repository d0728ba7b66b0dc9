"""`enginery init`: what a model says is filled in, what it cannot say is marked, nothing is overwritten."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from enginery.errors import InvalidModelError, UsageError
from enginery.pipeline.cli.main import cli
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.scaffold import Input, recipe_name, scaffold

NET = """
import torch

class Net(torch.nn.Module):
    def forward(self, image, mask):
        return image * mask
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x [batch, ?, 4] times an initializer that is listed among the inputs, as older exporters do."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N + 1", None, 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    path = tmp_path / "My Model.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


def test_an_onnx_file(model, tmp_path):
    written = scaffold(str(model), tmp_path / "out", name="mine")
    assert [path.name for path in written] == ["recipe.yaml", "data.py"]
    loaded = load_recipe(str(tmp_path / "out" / "recipe.yaml"))
    assert loaded.folder / loaded.recipe.source.onnx == loaded.folder / "../My Model.onnx"
    assert list(loaded.recipe.inputs) == ["x"], "an initializer is no input"
    assert loaded.recipe.inputs["x"].shape == ("N_1", "x_1", 4)
    assert set(loaded.recipe.dims) == {"N_1", "x_1"}
    assert loaded.recipe.dims["N_1"].max == 32, "the first dimension of every input counts samples, whatever its name"


def test_the_data_file_raises_until_it_is_filled_in(model, tmp_path):
    scaffold(str(model), tmp_path / "out", name="mine")
    names: dict = {}
    exec((tmp_path / "out" / "data.py").read_text(), names)
    with pytest.raises(NotImplementedError, match="yield your calibration batches"):
        names["batches"]("calibration")


def test_real_inputs_are_used_where_given(model, tmp_path):
    np.savez(tmp_path / "samples.npz", x=np.ones((2, 3, 4), np.float32))
    (written,) = scaffold(str(model), tmp_path / "out", name="mine", data=tmp_path / "samples.npz")
    recipe = load_recipe(str(written)).recipe
    assert recipe.data.evaluation is not None
    assert recipe.data.evaluation.npz == "../samples.npz"


def test_a_python_file_needs_its_inputs(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    with pytest.raises(UsageError, match=r"--input 'image:.*--input 'mask:"):
        scaffold(str(tmp_path / "net.py"), tmp_path / "out", name="net")
    scaffold(
        str(tmp_path / "net.py"),
        tmp_path / "out",
        name="net",
        inputs=["image:float32[batch, 8]", "mask:float32[batch,8]"],
    )
    recipe = load_recipe(str(tmp_path / "out")).recipe
    assert recipe.source.factory == "../net.py:Net"
    assert recipe.inputs["image"].shape == ("batch", 8)


def test_the_arrays_of_the_data_are_the_inputs(tmp_path):
    """The files differ in the length of two arrays alone, and carry labels."""
    (tmp_path / "net.py").write_text(NET.replace("image, mask)", "image, mask, *, ids, scale=None, best=False)"))
    (tmp_path / "data").mkdir()
    for length in (5, 9):
        arrays = {name: np.ones((4, length), kind) for name, kind in (("mask", np.float32), ("ids", np.int64))}
        np.savez(
            tmp_path / "data" / f"{length}.npz",
            image=np.ones((4, 3, 8, 8), np.float32), **arrays, labels=np.ones(4), other=np.ones(4),
        )  # fmt: skip
    scaffold(str(tmp_path / "net.py"), tmp_path / "out", name="net", data=tmp_path / "data")
    recipe = load_recipe(str(tmp_path / "out")).recipe
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in recipe.inputs.items()} == {
        "image": ("float32", ("batch", 3, 8, 8)),
        "mask": ("float32", ("batch", "mask_1")),
        "ids": ("int64", ("batch", "mask_1")),
    }


def test_data_that_lacks_an_input(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    np.savez(tmp_path / "x.npz", image=np.ones((4, 8), np.float32))
    with pytest.raises(UsageError, match=r"x.npz holds image; expected mask"):
        scaffold(str(tmp_path / "net.py"), tmp_path / "out", name="net", data=tmp_path / "x.npz")


def test_weights_are_pinned(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "net.pt").write_bytes(b"weights")
    inputs = ["image:float32[batch, 8]", "mask:float32[batch,8]"]
    scaffold(str(tmp_path / "net.py"), tmp_path / "out", name="net", inputs=inputs, weights=tmp_path / "net.pt")
    weights = load_recipe(str(tmp_path / "out")).recipe.source.weights
    assert weights is not None
    assert (weights.path, weights.sha256) == ("../net.pt", hashlib.sha256(b"weights").hexdigest())


def test_weights_without_code(model, tmp_path):
    with pytest.raises(UsageError, match="--weights goes with a Python file"):
        scaffold(str(model), tmp_path / "out", name="x", weights=model)


def test_an_archive_of_torch_export_needs_its_inputs(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK")
    with pytest.raises(UsageError, match="does not say its shapes"):
        scaffold(str(tmp_path / "net.pt2"), tmp_path / "out", name="net")
    np.savez(tmp_path / "x.npz", x=np.ones((4, 8), np.float32))
    scaffold(str(tmp_path / "net.pt2"), tmp_path / "out", name="net", data=tmp_path / "x.npz")
    assert load_recipe(str(tmp_path / "out")).recipe.source.pt2 == "../net.pt2"


@pytest.mark.parametrize("inputs", [["x:float64[8]"], ["x:float32[8]", "x:float32[9]"]])
def test_inputs_that_no_recipe_takes(model, tmp_path, inputs):
    with pytest.raises(UsageError, match=r"expected one of float32|is given twice"):
        scaffold(str(model), tmp_path / "out", name="x", inputs=inputs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "origin", "words"),
    [
        ("def a(): ...\ndef b(): ...", "net.py", "defines a, b. Say which"),
        ("def a(): ...", "net.py:c", "defines no class or function 'c'; it defines a"),
        ("x = 1", "net.py", "defines nothing"),
    ],
)
def test_which_callable(tmp_path, text, origin, words):
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(UsageError, match=words):
        scaffold(str(tmp_path / origin), tmp_path / "out", name="net")


def test_nothing_is_overwritten(model, tmp_path):
    scaffold(str(model), tmp_path / "out", name="mine")
    before = (tmp_path / "out" / "recipe.yaml").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        scaffold(str(model), tmp_path / "out", name="other")
    assert (tmp_path / "out" / "recipe.yaml").read_bytes() == before


def test_what_is_no_model(tmp_path):
    with pytest.raises(UsageError, match=r"There is no .*absent.onnx"):
        scaffold(str(tmp_path / "absent.onnx"), tmp_path, name="x")
    with pytest.raises(UsageError, match="neither an ONNX file"):
        scaffold(str(tmp_path), tmp_path, name="x")
    (tmp_path / "net.pt").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"enginery init net.py:Net --weights .*net.pt"):
        scaffold(str(tmp_path / "net.pt"), tmp_path, name="x")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"empty.onnx has no inputs"):
        scaffold(str(tmp_path / "empty.onnx"), tmp_path / "out", name="x")
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InvalidModelError, match="not an ONNX file"):
        scaffold(str(tmp_path / "bad.onnx"), tmp_path / "out", name="x")


@pytest.mark.parametrize(
    "text", ["x", "x:float32", "x:float32[1,2", ":float32[1]", "x:float32[batch,-1]", "x:float32[0]"]
)
def test_an_input_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="name:dtype"):
        Input.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/My Model.onnx", "my-model"), ("net.py:Net", "net"), ("./bert-base/", "bert-base"), ("..", "model")],
)
def test_recipe_names(text, name):
    assert recipe_name(text) == name


def test_the_command_says_what_to_do_next(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["init", model.name])
    assert result.exit_code == 0, result.output
    assert "enginery build my-model/recipe.yaml" in result.stdout
    assert (tmp_path / "my-model" / "recipe.yaml").is_file()
