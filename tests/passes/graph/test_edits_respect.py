"""What every default pass must leave alone: subgraphs, function bodies, overridable initializers, the signature."""

import numpy as np
import onnx
import pytest
from graphs import parse_model

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph import default_passes
from enginery.passes.sequence import run_graph_passes

GELU = "d = Div({x}, root) e = Erf(d) a = Add(e, one) m = Mul({x}, a) {y} = Mul(m, half)"
CONSTANTS = "<float root = {1.4142135}, float one = {1}, float half = {0.5}>"


def optimized(tmp_path, text, feeds, **options):
    onnx.save(parse_model(text, **options), tmp_path / "in.onnx")
    run_graph_passes(
        tmp_path / "in.onnx",
        tmp_path / "out.onnx",
        default_passes("onnxruntime-cpu"),
        open_model=open_model,
        feeds=feeds,
    )
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    return onnx.load(tmp_path / "out.onnx")


def x(n=3):
    return np.linspace(-2, 2, n * 4, dtype=np.float32).reshape(n, 4)


def test_both_branches_of_an_if_and_what_they_capture(tmp_path):
    branch = "s = Identity(x) " + GELU.format(x="s", y="{y}")
    then, other = branch.format(y="t"), branch.replace("Mul(m, half)", "Mul(m, one)").format(y="f")
    text = f"""g (float[N, 4] x, bool c) => (float[N, 4] y) {CONSTANTS}
        {{ y = If(c) <then_branch = a () => (float[N, 4] t) {{ {then} }},
                     else_branch = b () => (float[N, 4] f) {{ {other} }}> }}"""
    feeds = [{"x": x(), "c": np.array(choice)} for choice in (True, False)]
    model = optimized(tmp_path, text, feeds)
    (branching,) = model.graph.node
    found = {attribute.name: [node.op_type for node in attribute.g.node] for attribute in branching.attribute}
    assert found["then_branch"] == ["Gelu"]


def test_the_body_of_a_loop(tmp_path):
    text = """g (float[4] x, int64 trips) => (float[4] y) <bool go = {1}>
        { y = Loop(trips, go, x) <body = b (int64 i, bool keep, float[4] state) => (bool still, float[4] next)
            { still = Identity(keep) s = Identity(state) u = Add(s, x) next = Relu(u) }> }"""
    feeds = [{"x": x()[0], "trips": np.array(n)} for n in (0, 1, 3)]
    model = optimized(tmp_path, text, feeds)
    (loop,) = model.graph.node
    assert [node.op_type for node in loop.attribute[0].g.node] == ["Identity", "Add", "Relu"]


def test_the_body_of_a_local_function(tmp_path):
    function = '<domain: "local", opset_import: ["" : 20]> twice (a) => (b) { c = Identity(a) b = Add(c, c) }'
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = local.twice(x) }"
    model = optimized(tmp_path, text, [{"x": x()}], functions=function)
    assert [node.op_type for node in model.functions[0].node] == ["Add"]


def test_a_chain_behind_a_graph_output_reads_the_output(tmp_path):
    """What `b` gives way to takes on its name; `c`, which gives way to the same, must not lead to the old one."""
    text = """g (bool[N, S] m) => (bool[N, S] b, bool[N, S] y) <bool yes = {1}, bool no = {0}>
        { a = Not(m) b = And(yes, a) c = Or(b, no) y = Not(c) }"""
    feeds = [{"m": np.array([[True, False, True]])}]
    model = optimized(tmp_path, text, feeds)
    assert [(node.op_type, *node.input, *node.output) for node in model.graph.node] == [
        ("Not", "m", "b"),
        ("Not", "b", "y"),
    ]


def test_an_initializer_that_two_nodes_share_keeps_its_values(tmp_path):
    """Exporters merge equal weights: folding a batch norm into one convolution must not change the other."""
    text = """g (float[N, 2, 5, 5] x) => (float[N, 2, 5, 5] y, float[N, 2, 5, 5] z)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] s = {2, 3}, float[2] b = {1, 1}, float[2] v = {1, 4}>
        { c = Conv(x, w) y = BatchNormalization(c, s, b, b, v) r = Relu(x) z = Conv(r, w) }"""
    feeds = [{"x": np.random.default_rng(0).standard_normal((n, 2, 5, 5)).astype(np.float32)} for n in (1, 3)]
    model = optimized(tmp_path, text, feeds)
    assert sorted(node.op_type for node in model.graph.node) == ["Conv", "Conv", "Relu"]


@pytest.mark.parametrize("passed", [None, 3.0])
def test_an_initializer_that_the_caller_may_set(passed, tmp_path):
    text = "g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1, 1, 1, 1}> { y = Mul(x, w) }"
    onnx.save(parse_model(text), tmp_path / "in.onnx")
    passes = [each for each in default_passes("onnxruntime-cpu") if each.name != "freeze-initializers"]
    feeds = [{"x": x()}] if passed is None else [{"x": x(), "w": np.full(4, passed, np.float32)}]
    run_graph_passes(tmp_path / "in.onnx", tmp_path / "out.onnx", passes, open_model=open_model, feeds=feeds)
    model = onnx.load(tmp_path / "out.onnx")
    assert [value.name for value in model.graph.input] == ["x", "w"]
    assert [node.op_type for node in model.graph.node] == ["Mul"]


def test_an_output_that_is_an_input_and_one_that_is_another_output(tmp_path):
    text = """g (float[N, 4] x) => (float[N, 4] x, float[N, 4] y, float[N, 4] z)
        { y = Identity(x) r = Relu(x) z = Identity(r) }"""
    model = optimized(tmp_path, text, [{"x": x()}])
    assert [value.name for value in model.graph.output] == ["x", "y", "z"]
    assert [node.op_type for node in model.graph.node] == ["Identity", "Relu"]


def test_a_model_that_only_its_old_opset_says_keeps_it(tmp_path):
    old = "r = Unsqueeze<axes: ints = [2]>(z) t = Concat<axis: int = 2>(r, r) u = Softmax(t) y = ReduceMax(u)"
    text = (
        f"g (float[N, 4] x) => (float[A, B, C] y) {CONSTANTS} {{ s = Identity(x) {GELU.format(x='s', y='z')} {old} }}"
    )
    model = optimized(tmp_path, text, [{"x": x()}], opset=12)
    assert model.opset_import[0].version == 12
    assert "Identity" not in [node.op_type for node in model.graph.node]
