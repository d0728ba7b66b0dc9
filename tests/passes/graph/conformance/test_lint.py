import re

import onnx
import pytest
from graphs import parse_model

from enginery.errors import UsageError
from enginery.passes.graph.conformance import lint_model
from enginery.passes.graph.conformance.operators import ABSENT, CONTRIB

GOOD = "g (float[n, 16] x) => (float[n, 16] y) { y = Relu(x) }"


def save(text, folder, **options):
    path = folder / "model.onnx"
    onnx.save(parse_model(text, **options), path)
    return path


def test_a_plain_model_has_no_findings(tmp_path):
    assert lint_model(save(GOOD, tmp_path)) == ()


def test_a_finding_names_node_reason_versions_and_fix(tmp_path):
    text = """g (float[n, 4] x) => (float[n, 4] y) <float s = {0.1}, uint8 z = {3}>
              { [quant] q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
    (finding,) = lint_model(save(text, tmp_path))
    assert finding.node == "quant"
    assert "uint8 with zero point 3" in finding.reason
    assert finding.versions == "all versions"
    assert finding.fix
    assert str(finding).startswith("error: quant: is uint8 with zero point 3")
    assert finding.to_json()["severity"] == "error"


def test_findings_inside_subgraphs_are_seen(tmp_path):
    text = """g (float[4] x, bool c) => (float[4] y) { y = If(c) <then_branch = t () => (float[4] o) { o = Relu(x) },
              else_branch = e () => (float[4] p) { [bad] p = com.microsoft.QuickGelu(x) }> }"""
    (finding,) = lint_model(save(text, tmp_path))
    assert finding.node == "bad"


def test_a_local_function_is_no_unknown_operator(tmp_path):
    function = '<domain: "local", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }'
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = local.twice(x) }"
    assert lint_model(save(text, tmp_path, functions=function)) == ()


@pytest.mark.parametrize(("opset", "seen"), [(6, True), (7, False), (20, False), (26, False)])
def test_opsets_that_were_not_tried_are_named(tmp_path, opset, seen):
    path = save("g (float[4] x) => (float[4] y) { y = Relu(x) }", tmp_path, opset=opset)
    assert bool(lint_model(path)) == seen


@pytest.mark.parametrize(
    ("shape", "ranges", "reason"),
    [
        ("n", {"batch": 1}, r"dimension 'n' has no range .ranges: batch"),
        ("n", {}, "ranges: none"),
        ("", None, "dimension 0 is dynamic and has no name"),
    ],
)
def test_dimensions_need_a_range(tmp_path, shape, ranges, reason):
    path = save(f"g (float[{shape}, 4] x) => (float[m, 4] y) {{ y = Relu(x) }}".replace("[,", "[?,"), tmp_path)
    (finding,) = lint_model(path, ranges=ranges)
    assert finding.rule == "uncovered-dimension"
    assert re.search(reason, finding.reason)


def test_named_dimensions_are_enough_without_ranges(tmp_path):
    assert lint_model(save(GOOD, tmp_path), ranges={"n": 1}) == ()


def test_a_row_about_one_product_concerns_no_other(tmp_path):
    path = save("g (float[n, 2, s, 4] x) => (float[n, 2, s, 4] y) { y = Attention(x, x, x) }", tmp_path, opset=23)
    (finding,) = lint_model(path, "tensorrt-rtx")
    assert (finding.severity, finding.versions) == ("warning", "tensorrt-rtx 1.7")
    assert lint_model(path, "tensorrt") == ()


def test_a_target_without_a_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no lint for the target 'onnxruntime-cpu'. Available: tensorrt, "):
        lint_model(save(GOOD, tmp_path), "onnxruntime-cpu")


def test_the_list_of_operators_is_the_parsers_own():
    """A newer TensorRT-RTX that learns or forgets an operator fails here, and the table is brought up to date."""
    trt = pytest.importorskip("tensorrt_rtx")
    if not trt.__version__.startswith("1.7."):
        pytest.skip("the table was read from TensorRT-RTX 1.7")
    logger = trt.Logger(trt.Logger.ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(1), logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert {name for name in names if not parser.supports_operator(name)} == ABSENT
    assert all(parser.supports_operator(name) for name in CONTRIB)
