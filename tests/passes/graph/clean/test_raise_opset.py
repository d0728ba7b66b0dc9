from graphs import apply

from enginery.passes.graph.clean.raise_opset import RaiseOpset

MEAN = "g (float[N, 4] x) => (float[N, 1] y) { y = ReduceMax<axes: ints = [1]>(x) }"


def test_a_reduction_reads_its_axes_as_an_input(tmp_path):
    done = apply(RaiseOpset(version=18), MEAN, tmp_path, opset=17)
    assert (done.graph.opset, done.result.changed) == (18, 1)
    assert len(done.graph.nodes[0].inputs) == 2


def test_a_newer_model_stays(tmp_path):
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"
    done = apply(RaiseOpset(version=18), text, tmp_path, opset=20)
    assert (done.graph.opset, done.result.changed) == (20, 0)


def test_a_model_that_only_the_older_opset_says_is_left(tmp_path):
    text = "g (float[N, 4, 2] x) => (float[N, 4, 2] y) { y = Softmax(x) }"
    done = apply(RaiseOpset(version=20), text, tmp_path, opset=12)
    assert "opset 12 kept: 'Softmax -> y': Softmax changed its meaning in opset 13" in done.reasons
    assert done.result.changed == 0
