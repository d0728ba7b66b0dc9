from graphs import apply

from enginery.passes.graph.clean.fold_constants import FoldConstants
from enginery.passes.graph.clean.freeze_initializers import FreezeInitializers

TEXT = "g (float[N, 2] x, float[2] w) => (float[N, 2] y) <float[2] w = {1, 2}> { e = Exp(w) y = Add(x, e) }"


def test_initializers_leave_the_inputs(tmp_path):
    done = apply(FreezeInitializers(), TEXT, tmp_path)
    assert [tensor.name for tensor in done.graph.inputs] == ["x"]
    assert done.result.details == {"frozen": ["w"]}


def test_what_depends_on_them_can_be_folded_then(tmp_path):
    graph = apply(FreezeInitializers(), TEXT, tmp_path).graph
    assert FoldConstants().apply(graph).changed == 1


def test_inputs_without_an_initializer_stay(tmp_path):
    text = "g (float[N, 2] x, float[2] w) => (float[N, 2] y) { y = Add(x, w) }"
    assert apply(FreezeInitializers(), text, tmp_path).result.changed == 0
