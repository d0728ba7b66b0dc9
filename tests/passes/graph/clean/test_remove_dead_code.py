from graphs import apply

from enginery.passes.graph.clean.remove_dead_code import RemoveDeadCode


def test_nodes_and_weights_that_reach_no_output_go(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <float[2] used = {1, 2}, float[2] dead = {3, 4}>
    { a = Add(x, dead) b = Exp(a) y = Add(x, used) }"""
    done = apply(RemoveDeadCode(), text, tmp_path)
    assert done.ops == ["Add"]
    assert done.result.changed == 2
    assert set(done.graph.tensors()) == {"x", "y", "used"}


def test_an_optional_output_that_nothing_reads_is_dropped(tmp_path):
    text = """g (float[N, 1, 4, 4] x) => (float[N, 1, 2, 2] y)
    { y, i = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(x) }"""
    done = apply(RemoveDeadCode(), text, tmp_path)
    assert len(done.graph.nodes[0].outputs) == 1


def test_a_required_output_is_kept(tmp_path):
    text = "g (float[N, 4] x) => (float[N, 2] y) { y, rest = Split<axis: int = 1, num_outputs: int = 2>(x) }"
    assert len(apply(RemoveDeadCode(), text, tmp_path).graph.nodes[0].outputs) == 2


def test_what_a_branch_captures_is_used(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) { k = Exp(x)
      y = If (c) <then_branch = t () => (float[N] a) { d = Neg(k) a = Mul(x, k) },
                  else_branch = e () => (float[N] b) { b = Neg(x) }> }"""
    done = apply(RemoveDeadCode(), text, tmp_path)
    assert done.ops == ["Exp", "If"]
    assert done.result.changed == 1


def test_what_only_a_dead_node_of_a_branch_captured_is_dead(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) { k = Exp(x)
      y = If (c) <then_branch = t () => (float[N] a) { d = Neg(k) a = Mul(x, x) },
                  else_branch = e () => (float[N] b) { b = Neg(x) }> }"""
    assert apply(RemoveDeadCode(), text, tmp_path).ops == ["If"]


def test_a_value_that_a_branch_returns_unchanged_is_used(tmp_path):
    text = """g (bool c, float[N] x) => (float[N] y) { k = Exp(x)
      y = If (c) <then_branch = t () => (float[N] a) { a = Identity(k) },
                  else_branch = e () => (float[N] b) { b = Neg(x) }> }"""
    assert apply(RemoveDeadCode(), text, tmp_path).ops == ["Exp", "If"]


def test_uncalled_functions_go_and_called_ones_stay(tmp_path):
    text = "g (float[N] x) => (float[N] y) { y = local.f(x) }"
    body = """<domain: "local", opset_import: ["" : 20, "local" : 1]> f (a) => (b) { d = Exp(a) b = local.h(a) }
    <domain: "local", opset_import: ["" : 20]> h (a) => (b) { b = Neg(a) }
    <domain: "local", opset_import: ["" : 20]> unused (a) => (b) { b = Neg(a) }"""
    done = apply(RemoveDeadCode(), text, tmp_path, functions=body)
    assert sorted(function.name for function in done.graph.functions) == ["f", "h"]
    assert done.result.changed == 2


def test_unused_inputs_stay_in_the_signature(tmp_path):
    text = "g (float[N] x, float[N] unused) => (float[N] y) { y = Neg(x) }"
    assert [t.name for t in apply(RemoveDeadCode(), text, tmp_path).graph.inputs] == ["x", "unused"]
