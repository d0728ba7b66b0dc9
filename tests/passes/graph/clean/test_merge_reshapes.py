from graphs import apply

from enginery.passes.graph.clean.merge_reshapes import MergeReshapes


def test_a_reshape_reads_past_the_shape_ops_before_it(tmp_path):
    text = """g (float[N, 2, 3] x) => (float[N, 6] y) <int64[1] axis = {0}, int64[2] s = {-1, 6}, int64[2] t = {6, -1}>
    { a = Unsqueeze(x, axis) b = Flatten(a) c = Reshape(b, t) y = Reshape(c, s) }"""
    assert apply(MergeReshapes(), text, tmp_path).ops == ["Reshape"]


def test_a_target_may_copy_a_dimension_that_stays_in_its_place(tmp_path):
    text = """g (float[N, 2, 3] x) => (float[N, 6] y) <int64[2] s = {0, -1}, int64[3] t = {0, 3, 2}>
    { a = Reshape(x, t) y = Reshape(a, s) }"""
    assert apply(MergeReshapes(), text, tmp_path).ops == ["Reshape"]


def test_a_target_that_copies_a_moved_dimension_is_kept(tmp_path):
    text = """g (float[N, 2, 3] x) => (float[3, A] y) <int64[2] s = {0, -1}, int64[3] t = {3, -1, 2}>
    { a = Reshape(x, t) y = Reshape(a, s) }"""
    done = apply(MergeReshapes(), text, tmp_path)
    assert done.ops == ["Reshape", "Reshape"]
    assert "copies a dimension" in done.reasons


def test_squeeze_undoes_unsqueeze(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <int64[1] axis = {1}>
    { e = Exp(x) a = Unsqueeze(e, axis) b = Squeeze(a, axis) y = Neg(b) }"""
    assert apply(MergeReshapes(), text, tmp_path).ops == ["Exp", "Neg"]


def test_axes_counted_from_the_end_are_left_alone(tmp_path):
    text = """g (float[N, 2] x) => (float[N, 2] y) <int64[1] axis = {-1}>
    { e = Exp(x) a = Unsqueeze(e, axis) b = Squeeze(a, axis) y = Neg(b) }"""
    assert apply(MergeReshapes(), text, tmp_path).result.changed == 0
