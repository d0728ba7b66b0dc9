"""Every hostile file here was tried: without the check a runtime hangs on it, or reads another file's bytes."""

import os

import engine_models as models
import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

from enginery.engines.onnx_file.check import MAX_EXPANDED_NODES, check_model
from enginery.errors import InvalidModelError


def doubling_functions(levels, leaf="Neg"):
    """f0 holds one node, each further function calls the one before twice: 2 ** levels nodes when expanded."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "f0", ["x"], ["y"], [helper.make_node(leaf, ["x"], ["y"])], imports[:1])]
    for level in range(1, levels + 1):
        nodes = [
            helper.make_node(f"f{level - 1}", ["x"], ["t"], domain="local"),
            helper.make_node(f"f{level - 1}", ["t"], ["y"], domain="local"),
        ]
        functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, imports))
    return with_functions(functions, f"f{levels}")


def with_functions(functions, called):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(called, ["a"], ["b"], name="call", domain="local")],
        "graph",
        [value("a", TensorProto.FLOAT, [1])],
        [value("b", TensorProto.FLOAT, [1])],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)


def external_tensor(location="weights.bin", name="w", dims=(16, 8), **entries):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def save_with(tensor, folder, size=512, **extra):
    """A model whose only initializer is the given tensor, beside a data file of `size` bytes."""
    model = models.parse("{ h = MatMul(x, w)  y = Relu(h) }")
    model.graph.initializer.append(tensor)
    data = folder / "weights.bin"
    if not data.exists():
        data.write_bytes(bytes(size))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_an_ordinary_model_passes(tmp_path):
    facts = check_model(models.save(models.linear(), tmp_path))
    assert (facts.nodes, facts.expanded_nodes, facts.external_files) == (2, 2, ())


def test_external_data_beside_the_model_passes(tmp_path):
    assert check_model(models.save(models.linear(), tmp_path, external=True)).external_files == ("weights.bin",)


def test_functions_are_counted_expanded(tmp_path):
    facts = check_model(models.save(doubling_functions(10), tmp_path))
    assert facts.expanded_nodes == 1024


def test_functions_that_expand_to_a_bomb_are_refused(tmp_path):
    path = models.save(doubling_functions(17), tmp_path)
    assert path.stat().st_size < 1500
    with pytest.raises(InvalidModelError, match=f"more than {MAX_EXPANDED_NODES} nodes .at 'f1"):
        check_model(path)


def test_a_bomb_in_a_subgraph_counts_too(tmp_path):
    model = doubling_functions(17)
    call = model.graph.node.pop()
    branch = helper.make_graph([call], "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])])
    model.graph.node.append(helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch))
    with pytest.raises(InvalidModelError, match="expand"):
        check_model(models.save(model, tmp_path))


def test_a_function_that_calls_itself_is_refused(tmp_path):
    nodes = [helper.make_node("f", ["x"], ["y"], domain="local")]
    function = helper.make_function("local", "f", ["x"], ["y"], nodes, [helper.make_opsetid("local", 1)])
    with pytest.raises(InvalidModelError, match="'f' calls itself"):
        check_model(models.save(with_functions([function], "f"), tmp_path))


def test_a_long_chain_of_functions_is_refused(tmp_path):
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = [
        helper.make_function(
            "local", f"f{i}", ["x"], ["y"], [helper.make_node(f"f{i + 1}", ["x"], ["y"], domain="local")], imports
        )
        for i in range(80)
    ]
    functions.append(
        helper.make_function("local", "f80", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], imports)
    )
    with pytest.raises(InvalidModelError, match="more than 64 deep"):
        check_model(models.save(with_functions(functions, "f0"), tmp_path))


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "", "a\\b", "*/_ORT_MEM_ADDR_/*", "missing.bin", "."]
)
def test_data_outside_the_folder_is_refused(tmp_path, location):
    with pytest.raises(InvalidModelError, match="tensor 'w'"):
        check_model(save_with(external_tensor(location), tmp_path))


def test_a_hard_link_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(512))
    os.link(secret, tmp_path / "weights.bin")
    with pytest.raises(InvalidModelError, match="hard link"):
        check_model(save_with(external_tensor(), tmp_path))


def test_a_symbolic_link_is_refused_also_as_a_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w").write_bytes(bytes(512))
    (tmp_path / "inside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidModelError, match="symbolic link"):
        check_model(save_with(external_tensor("inside/w"), tmp_path))


def test_a_folder_or_pipe_is_no_data_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidModelError, match="not a regular file"):
        check_model(save_with(external_tensor("pipe"), tmp_path))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 8}, "bytes 8 to"),
        ({"offset": -4, "length": 512}, "bytes -4 to"),
        ({"length": 516}, "bytes 0 to 516"),
        ({"length": -1}, "bytes 0 to -1"),
        ({"length": 256}, "256 bytes .*need 512"),
        ({"offset": "1_0"}, "an integer is expected"),
        ({"offset": "٣"}, "an integer is expected"),
        ({"length": " 512"}, "an integer is expected"),
    ],
)
def test_offsets_and_lengths_stay_inside_the_file(tmp_path, entries, message):
    if "offset" in entries and entries["offset"] == 8:
        message = "504 bytes .*need 512"
    with pytest.raises(InvalidModelError, match=message):
        check_model(save_with(external_tensor(**entries), tmp_path))


def test_a_key_given_twice_is_refused(tmp_path):
    tensor = external_tensor()
    tensor.external_data.add(key="location", value="other.bin")
    with pytest.raises(InvalidModelError, match="'location' of its external data twice"):
        check_model(save_with(tensor, tmp_path))


def test_external_entries_count_without_the_external_mark(tmp_path):
    tensor = external_tensor("/etc/passwd")
    tensor.ClearField("data_location")
    with pytest.raises(InvalidModelError, match="/etc/passwd"):
        check_model(save_with(tensor, tmp_path))


def test_inline_data_has_the_size_of_its_shape(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16, 8], raw_data=bytes(508))
    with pytest.raises(InvalidModelError, match=r"508 bytes.*\[16, 8\] need 512"):
        check_model(save_with(tensor, tmp_path))


def test_a_negative_dimension_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-16, 8], raw_data=bytes(512))
    with pytest.raises(InvalidModelError, match="no negative dimension"):
        check_model(save_with(tensor, tmp_path))


def test_four_bit_tensors_are_packed(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3], raw_data=bytes(2))
    check_model(save_with(tensor, tmp_path))


def hidden_places():
    """A model for each place where a tensor can hide, with a tensor that points out of the folder."""
    evil = external_tensor("../secret", name="evil")
    sparse = helper.make_sparse_tensor(evil, numpy_helper.from_array(np.array([0]), "i"), [128])

    def model(**attributes):
        result = models.linear()
        result.graph.node[1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        return result

    branch = helper.make_graph([], "branch", [], [], initializer=[evil])
    deep = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=branch)], "deep", [], [])
    yield "attribute", model(value=evil)
    yield "attribute list", model(values=[evil])
    yield "sparse attribute", model(sparse_value=sparse)
    yield "subgraph", model(body=branch)
    yield "nested subgraph", model(body=deep)
    sparse_initializer = models.linear()
    sparse_initializer.graph.sparse_initializer.append(sparse)
    yield "sparse initializer", sparse_initializer
    constant = helper.make_node("Constant", [], ["y"], value=evil)
    function = helper.make_function("local", "f", ["x"], ["y"], [constant], [helper.make_opsetid("", 20)])
    yield "function", with_functions([function], "f")
    default = helper.make_function(
        "local", "f", ["x"], ["y"], [], [], attribute_protos=[helper.make_attribute("a", evil)]
    )
    yield "function default", with_functions([default], "f")
    training = models.linear()
    training.training_info.add().algorithm.initializer.append(evil)
    yield "training", training


@pytest.mark.parametrize(
    ("place", "model"), list(hidden_places()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_tensor_can_hide(tmp_path, place, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match="'evil'"):
        check_model(path)


def test_nodes_that_load_compiled_engines_are_refused(tmp_path):
    model = models.linear()
    model.graph.node[1].op_type = "EPContext"
    with pytest.raises(InvalidModelError, match="node 'relu' is an EPContext"):
        check_model(models.save(model, tmp_path))


def test_a_graph_given_twice_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(models.linear().SerializeToString() + doubling_functions(2).SerializeToString())
    with pytest.raises(InvalidModelError, match="field 7 of a message 2 times"):
        check_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"PK\x03\x04 some archive", "malformed"), (b"\x08\x0a", "no graph"), (b"\x3a\x7f", "cut short")],
)
def test_other_files_are_no_models(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=message):
        check_model(path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InvalidModelError, match="cannot be read"):
        check_model(tmp_path / "none.onnx")


def test_deep_nesting_is_refused(tmp_path):
    def field(number, payload):
        size, head = len(payload), bytes([number << 3 | 2])
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return head + bytes([size]) + payload

    # protobuf itself refuses to write such a file: graph (1: node), node (5: attribute), attribute (6: graph).
    graph = b""
    for _ in range(120):
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "model.onnx"
    path.write_bytes(field(7, graph))
    with pytest.raises(InvalidModelError, match="nests more than 100"):
        check_model(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_cleanly_or_read(tmp_path, data):
    """Flip, cut or insert bytes of a real model: the check answers or raises its own error, and nothing else."""
    content = bytearray(models.quantized_linear().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if action == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif action == "cut" and len(content) > 10:
            del content[at : at + data.draw(st.integers(1, 8))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        facts = check_model(path)
    except InvalidModelError:
        return
    assert facts.nodes >= 0


def test_the_reader_agrees_with_onnx_on_a_real_model(tmp_path):
    path = models.save(models.quantized_linear(), tmp_path)
    proto = onnx.load(path)
    assert check_model(path).nodes == len(proto.graph.node)
