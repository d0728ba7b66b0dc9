"""Models of opsets 7 to 12 in opset 13: equal numbers, or the node that keeps them as they are."""

import onnx
import pytest
from graphs import apply, parse

from enginery.passes.graph.clean.raise_opset import RaiseOpset
from enginery.passes.graph.opset import raise_opset

RISE = RaiseOpset(version=13)
ROW = "g (float[N, 4] x) => (float[N, 4] y)"
MAP = "g (float[N, 2, 3, 4] x) => (float[N, A, B, C] y)"


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        (f"{ROW} {{ y = Clip<min: float = -0.5, max: float = 0.5>(x) }}", 7),
        (f"{ROW} {{ y = Clip<max: float = 0.5>(x) }}", 10),
        (f"{ROW} {{ y = Clip(x) }}", 10),
        (f"{ROW} {{ a = Dropout<ratio: float = 0.5>(x) y = Relu(a) }}", 11),
        (f"{MAP} {{ y = Pad<pads: ints = [0, 0, 1, 2, 0, 0, 0, 1]>(x) }}", 9),
        (f"{MAP} {{ y = Pad<pads: ints = [0, 0, 1, 2, 0, 0, 0, 1], value: float = 1.5>(x) }}", 9),
        (f'{MAP} {{ y = Pad<mode: string = "reflect", pads: ints = [0, 0, 1, 2, 0, 0, 0, 1]>(x) }}', 9),
        (f"{MAP} {{ y = Slice<axes: ints = [2, 3], starts: ints = [1, 0], ends: ints = [3, -1]>(x) }}", 9),
        (f"{MAP} {{ y = Slice<starts: ints = [0, 1], ends: ints = [9, 2]>(x) }}", 9),
        ("g (float[N, 4] x) => (float[N, 2] y, int64[N, 2] i) { y, i = TopK<k: int = 2>(x) }", 9),
        (f'{MAP} {{ y = Upsample<mode: string = "nearest", scales: floats = [1.0, 1.0, 2.0, 3.0]>(x) }}', 7),
        (f'{MAP} <float[4] s = {{1, 1, 2, 1.5}}> {{ y = Upsample<mode: string = "linear">(x, s) }}', 9),
        (f"{MAP} <float[4] s = {{1, 1, 2, 2}}> {{ y = Resize(x, s) }}", 10),
        (f'{MAP} <float[4] s = {{1, 1, 0.5, 0.5}}> {{ y = Resize<mode: string = "linear">(x, s) }}', 10),
        ("g (float[N, 4] x) => (float[N, 1] y) { y = ReduceSum<axes: ints = [1]>(x) }", 12),
        ("g (float[N, 4] x) => (float[1, 1] y) { y = ReduceSum(x) }", 12),
        ("g (float[N, 4] x) => (float[N, 1] y, float[N, 3] z) { y, z = Split<axis: int = 1, split: ints = [1, 3]>(x) }",
         11),
        ("g (float[N, 4] x) => (float[N, 2] y, float[N, 2] z) { y, z = Split<axis: int = 1>(x) }", 11),
        (f"{ROW} {{ a = Unsqueeze<axes: ints = [1]>(x) b = Relu(a) y = Squeeze<axes: ints = [1]>(b) }}", 12),
        (f"{ROW} {{ y = Softmax(x) }}", 12),
        (f"{ROW} {{ y = LogSoftmax<axis: int = -1>(x) }}", 12),
        ("g (float[N, 4, 1, 1] x) => (float[N, 4, 1, 1] y) { y = Softmax(x) }", 9),
        (
            """g (float[N, 4] x) => (float[N, 4] y) <int64[2, 2] i = {0, 3, 2, 1}, float[2, 2] u = {9, 8, 7, 6}>
            { a = Concat<axis: int = 0>(x, x) b = Scatter<axis: int = 1>(a, i, u) c = Slice<axes: ints = [0],
            starts: ints = [0], ends: ints = [1]>(b) y = Add(x, c) }""",
            9,
        ),
        (
            """g (float[N, 2, 3, 4] x) => (float[N, 2, 3, 4] y) <float[2] s = {1, 2}, float[2] b = {0, 1},
            float[2] m = {0.5, 0}, float[2] v = {1, 2}> { y = BatchNormalization<spatial: int = 1>(x, s, b, m, v) }""",
            8,
        ),
    ],
)  # fmt: skip
def test_what_moved_is_found_where_the_newer_opset_reads_it(text, opset, tmp_path):
    done = apply(RISE, text, tmp_path, opset=opset, ir_version=4)
    assert (done.graph.opset, done.result.changed) == (13, 1)
    onnx.checker.check_model(tmp_path / "after.onnx", full_check=True)


@pytest.mark.parametrize(
    ("text", "opset", "reason"),
    [
        ("g (float[N, 4, 2] x) => (float[N, 4, 2] y) { y = Softmax(x) }", 12, "it spans the axes from 1 on at once"),
        (
            f"{MAP} <float[4] s = {{1, 1, 0.5, 0.5}}> {{ y = Resize(x, s) }}", 10,
            "which pixel is the nearest one was not specified where a size shrinks",
        ),
        (
            f'{MAP} <float[4] s = {{1, 1, 2, 2}}, float[0] r = {{}}> {{ y = Resize<mode: string = "linear", '
            'coordinate_transformation_mode: string = "tf_half_pixel_for_nn">(x, r, s) }', 11,
            "tf_half_pixel_for_nn has ended",
        ),
        (f"{ROW} {{ y = Relu(x) }}", 6, "opset 6 is older than 7"),
    ],
)  # fmt: skip
def test_what_the_newer_operator_cannot_say_keeps_the_model(text, opset, reason):
    graph = parse(text, opset=opset, ir_version=4)
    assert reason in str(raise_opset(graph, 13))
    assert graph.opset == opset
    assert "axis" not in graph.nodes[0].attrs


def test_a_region_keeps_its_pixels(tmp_path):
    text = """g (float[1, 1, 6, 6] x) => (float[1, 1, 2, 2] y) <float[1, 4] r = {0.3, 0.7, 4.2, 3.9}, int64[1] i = {0}>
    { y = RoiAlign<output_height: int = 2, output_width: int = 2>(x, r, i) }"""
    assert apply(RaiseOpset(version=17), text, tmp_path, opset=13).graph.opset == 17
