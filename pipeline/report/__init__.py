"""The report: verdicts first, then every figure behind them. `document.py` is the data; the rest renders it."""

from __future__ import annotations

from pathlib import Path

from enginery.pipeline.report import html
from enginery.pipeline.report.document import (
    Candidate,
    CaseErrors,
    CompressionStep,
    Depth,
    Errors,
    Latency,
    MetricFigures,
    PassEffect,
    RemedyEffect,
    Report,
    ShapeTime,
    Speedup,
    StageTime,
    read_report,
    write_document,
)
from enginery.pipeline.report.markdown import render_markdown

__all__ = [
    "Candidate",
    "CaseErrors",
    "CompressionStep",
    "Depth",
    "Errors",
    "Latency",
    "MetricFigures",
    "PassEffect",
    "RemedyEffect",
    "Report",
    "ShapeTime",
    "Speedup",
    "StageTime",
    "read_report",
    "render_markdown",
    "write_report",
]


def write_report(report: Report, folder: Path) -> tuple[str, ...]:
    """Write the report in every form into `folder` and return the names of the files."""
    write_document(report, folder)
    report = read_report(folder)  # every form is made of the same document, down to the order of its keys
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / html.FILE_NAME).write_text(html.render_html(report), encoding="utf-8")
    return (html.FILE_NAME, "report.json", "report.md")
