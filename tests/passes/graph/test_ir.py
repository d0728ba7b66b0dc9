import hashlib
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import parse_model
from onnx import TensorProto, helper, numpy_helper

from enginery.engines.onnxruntime import open_model
from enginery.errors import InvalidModelError
from enginery.passes.graph.ir import EMBED_LIMIT, load_graph, save_graph


def large_model(folder: Path, *, rows: int = 6000, name: str = "large.onnx") -> Path:
    """A model whose weights exceed what is embedded, saved with external data by the onnx package."""
    width = EMBED_LIMIT // 4 // rows + 1
    weight = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "i"], ["g"]), helper.make_node("Add", ["g", "b"], ["y"])],
        "large",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(width, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / name, save_as_external_data=True, location=f"{name}.data")
    return folder / name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_external_weights_are_copied_readable_and_run(tmp_path):
    source = large_model(tmp_path)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "model.onnx"
    save_graph(load_graph(source), output)
    for file in (output, output.with_name("model.onnx.data")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    feeds = {"i": np.array([0, 5999])}
    expected = open_model(source)(feeds)["y"]
    source.with_name("large.onnx.data").unlink()
    np.testing.assert_array_equal(open_model(output)(feeds)["y"], expected)


def test_the_same_graph_gives_the_same_bytes(tmp_path):
    source = large_model(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_graph(load_graph(source), tmp_path / name / "m.onnx")
    assert digest(tmp_path / "a/m.onnx") == digest(tmp_path / "b/m.onnx")
    assert digest(tmp_path / "a/m.onnx.data") == digest(tmp_path / "b/m.onnx.data")


def test_small_weights_are_embedded_and_a_stale_data_file_goes(tmp_path):
    onnx.save(
        parse_model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"), tmp_path / "a.onnx"
    )
    (tmp_path / "b.onnx.data").write_bytes(b"stale")
    save_graph(load_graph(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_saving_over_the_weights_that_are_being_read_is_refused(tmp_path):
    source = large_model(tmp_path)
    with pytest.raises(InvalidModelError, match="still holds weights"):
        save_graph(load_graph(source), source)
    assert open_model(source)({"i": np.array([1])})["y"].size


def edit_entry(path: Path, key: str, value: str) -> None:
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    entries = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
    del tensor.external_data[:]
    for name, text in entries.items():
        tensor.external_data.add(key=name, value=text)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../outside.data", "outside the model's folder"),
        ("location", "/etc/hostname", "outside the model's folder"),
        ("location", "absent.data", "no such file"),
        ("length", "12", "declares 12 bytes"),
        ("offset", "-4", "expected bytes"),
        ("offset", "100000000", "cut short"),
    ],
)
def test_external_data_that_cannot_be_trusted_is_refused(key, value, message, tmp_path):
    (tmp_path / "outside.data").write_bytes(b"x" * 100)
    (tmp_path / "in").mkdir()
    source = large_model(tmp_path / "in")
    edit_entry(source, key, value)
    with pytest.raises(InvalidModelError, match=message):
        load_graph(source)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    source = large_model(tmp_path / "in")
    data = source.with_name("large.onnx.data")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidModelError, match="outside"):
        load_graph(source)


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x0a"])
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(InvalidModelError):
        load_graph(tmp_path / "bad.onnx")


def round_trip(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "a.onnx")
    save_graph(load_graph(folder / "a.onnx"), folder / "b.onnx")
    onnx.checker.check_model(folder / "b.onnx")
    return onnx.load(folder / "b.onnx")


def test_initializers_that_are_inputs_stay_both(tmp_path):
    text = (
        "g (float[2] x, float[2] w, float[2] z) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w) y = Mul(a, z) }"
    )
    model = round_trip(parse_model(text), tmp_path)
    assert [value.name for value in model.graph.input] == ["x", "w", "z"]
    run = open_model(tmp_path / "b.onnx")
    one = np.ones(2, np.float32)
    np.testing.assert_array_equal(run({"x": one, "z": one})["y"], [2, 3])
    np.testing.assert_array_equal(run({"x": one, "z": one, "w": one})["y"], [2, 2])


def test_metadata_of_the_model_stays(tmp_path):
    model = parse_model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.doc_string, model.domain, model.model_version = "what it is", "org.example", 3
    onnx.helper.set_model_props(model, {"author": "somebody"})
    again = round_trip(model, tmp_path)
    assert (again.doc_string, again.domain, again.model_version) == ("what it is", "org.example", 3)
    assert [(entry.key, entry.value) for entry in again.metadata_props] == [("author", "somebody")]


def test_type_and_sparse_attributes_stay(tmp_path):
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([3.0], np.float32), "v"), numpy_helper.from_array(np.array([1]), "v_i"), [2]
    )
    nodes = [
        helper.make_node("Optional", [], ["none"], type=kind),
        helper.make_node("OptionalHasElement", ["none"], ["has"]),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("has", TensorProto.BOOL, []),
        ],
    )
    again = round_trip(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path)
    by_op = {node.op_type: node for node in again.graph.node}
    assert by_op["Optional"].attribute[0].tp == kind
    assert by_op["Constant"].attribute[0].sparse_tensor == sparse


def test_sequence_inputs_and_outputs_stay(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["N"])
    out = helper.make_tensor_sequence_value_info("t", TensorProto.FLOAT, ["N"])
    node = helper.make_node("SequenceInsert", ["s", "x"], ["t"])
    graph = helper.make_graph(
        [node], "g", [sequence, helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])], [out]
    )
    again = round_trip(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path)
    assert again.graph.input[0] == sequence
    assert again.graph.output[0] == out


def test_outer_weights_are_not_repeated_in_branches(tmp_path):
    text = """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> { k = Add(x, w)
      y = If (c) <then_branch = t () => (float[2] a) { a = Mul(k, w) },
                  else_branch = e () => (float[2] b) <float[2] own = {5, 6}> { b = Add(k, own) }> }"""
    model = round_trip(parse_model(text), tmp_path)
    branches = {attribute.name: attribute.g for node in model.graph.node for attribute in node.attribute}
    assert [t.name for t in branches["then_branch"].initializer] == []
    assert [t.name for t in branches["else_branch"].initializer] == ["own"]
    run = open_model(tmp_path / "b.onnx")
    one = np.ones(2, np.float32)
    np.testing.assert_array_equal(run({"c": np.array(True), "x": one})["y"], [2, 6])
    np.testing.assert_array_equal(run({"c": np.array(False), "x": one})["y"], [7, 9])
