"""report.md: verdicts first, every figure of the document, and nothing that can break a table."""

import re

import pytest
from reports import make_report

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.report import (
    CaseErrors,
    CompressionStep,
    Errors,
    PassEffect,
    Report,
    read_report,
    render_markdown,
    write_report,
)
from enginery.pipeline.report.html import render_html


def sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def rows(text: str, section: str) -> list[list[str]]:
    """The cells of a section's table, without the head."""
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_verdicts_come_first():
    text = render_markdown(make_report())
    assert text.startswith("# tiny: onnxruntime-cpu, int8\n")
    assert sections(text)[0] == "Gates"
    assert text.index("Shipped: every gate that applies passed.") < text.index("## Gates")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Shipped: every gate that applies passed."),
        (
            {"shipped": False, "gates": (GateVerdict(gate="speed", verdict=Verdict.REFUSED, words="slow"),)},
            "Refused by speed: no bundle was made.",
        ),
        ({"shipped": False, "gates": ()}, "Stopped before the gates: no bundle was made."),
        (
            {
                "gates": (GateVerdict(gate="shapes", verdict=Verdict.DEFERRED, words="no GPU"),),
                "complete_with": "enginery validate b",
            },
            "Built, not yet run; gates waiting: shapes. Complete: `enginery validate b`.",
        ),
        ({"allowed": ("speed",)}, "Shipped. Allowed in spite of a refusal: speed."),
    ],
)
def test_the_headline_tells_the_outcome(changes, words):
    assert f"**{words}**" in render_markdown(make_report(**changes))


def test_every_part_of_a_full_report_has_a_section():
    assert sections(render_markdown(make_report())) == [
        "Gates",
        "Notes",
        "Error against the original",
        "Task metric",
        "Latency (ms)",
        "Size",
        "Kernels",
        "Remedies",
        "Quantization by depth",
        "Passes",
        "Stages",
        "Provenance",
    ]


def test_what_was_not_measured_has_no_section():
    bare = Report(
        name="m", target="onnxruntime-cpu", precision="fp32", enginery="1", shipped=False, gates=()
    )  # fmt: skip
    assert sections(render_markdown(bare)) == ["Provenance"]


def test_errors_by_output_and_shape():
    found = rows(render_markdown(make_report()), "Error against the original")
    assert found[0] == ["evaluation data", "y", "64", "0.25", "0.125", "0.998000", "0.970000", "24.5 dB", "98.44%"]
    assert found[1][:3] == ["max (batch=8)", "y", "8"]


def test_a_faulty_output_says_so():
    faulty = Errors(name="y", samples=1, scale=0, max_abs=0, mean_abs=0, faults=("has 2 values that are NaN",))
    text = render_markdown(make_report(cases=(CaseErrors(case="min", outputs=(faulty,)),)))
    assert "has 2 values that are NaN" in text


def test_refusals_carry_their_reasons_and_are_counted():
    many = tuple({"node": f"n{index}", "reason": "shared"} for index in range(30))
    text = render_markdown(make_report(passes=(PassEffect(stage="optimize", spec="fuse", changed=0, refusals=many),)))
    assert "- `n0`: shared" in text
    assert "and 10 more refusals" in text
    assert rows(text, "Passes")[0][3] == "30"


def test_layers_are_listed_with_the_nodes_that_went_into_them():
    layer = {"node": "gemm_1", "op": "gemm", "kind": "integer", "heavy": True, "sources": [f"n{i}" for i in range(6)]}
    text = render_markdown(make_report(kernels={"nodes": [layer] * 230}))
    assert rows(text, "Layers")[0] == ["`gemm_1`", "gemm", "integer", "yes", "`n0`, `n1`, `n2`, `n3`, 2 more"]
    assert len(rows(text, "Layers")) == 200
    assert "And 30 more; report.json lists them." in text


def test_a_name_cannot_break_a_table():
    gate = GateVerdict(gate="shapes", verdict=Verdict.PASSED, words="a|b\nc")
    assert rows(render_markdown(make_report(gates=(gate,))), "Gates") == [["shapes", "passed", "a\\|b c"]]


def test_the_document_is_read_back(tmp_path):
    report = make_report()
    assert write_report(report, tmp_path) == ("report.html", "report.json", "report.md")
    assert read_report(tmp_path) == report
    assert read_report(tmp_path / "report.json") == report


def test_what_is_no_report(tmp_path):
    with pytest.raises(UsageError, match=r"holds no report\.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 2}')
    with pytest.raises(IntegrityError, match="can read"):
        read_report(tmp_path)


def test_each_step_of_compression_is_a_row():
    steps = (
        CompressionStep(
            step="original", metric=0.9, parameters=2000, nonzero=2000, bytes=8000, macs=4000000, latency=1.0
        ),
        CompressionStep(step="prune-heads{ratio=0.5}", metric=0.5, parameters=1000, latency=0.6),
        CompressionStep(step="onnxruntime-cpu, int8", metric=0.89, bytes=1000),
    )
    report = make_report(compression=steps)
    assert rows(render_markdown(report), "Compression") == [
        ["original", "0.9", "2,000", "2,000", "8,000", "4,000,000", "1.00"],
        ["`prune-heads{ratio=0.5}`", "0.5", "1,000", "", "", "", "0.60"],
        ["onnxruntime-cpu, int8", "0.89", "", "", "1,000", "", ""],
    ]
    assert "<td>prune-heads{ratio=0.5}</td>" in render_html(report)
    assert "Compression" not in sections(render_markdown(make_report()))


def test_what_each_remedy_gained_and_how_the_worst_layers_inputs_are_spread():
    text = render_markdown(make_report())
    assert "| `smooth` | yes | 2 | 20.0 → 27.5 | 15.0 → 24.0 |  |" in text
    assert "| `equalize` |  | 0 |  |  | graph: no two convolutions |" in text
    assert "| `conv2` | 30.5 | `relu1` | 0 to 6 | `···▁█▂` |" in text
