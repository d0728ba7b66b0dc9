"""Whether a target takes an ONNX file as it is meant: checked before a build, and on request for any file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from enginery.engines.onnx_file.check import check_model
from enginery.errors import EngineError
from enginery.passes.graph.conformance import TARGETS, Finding, FixResult, fix_model, lint_model
from enginery.pipeline.literal_comparison import compare_files

MOST_NAMED: Final = 10


@dataclass(frozen=True)
class LintReport:
    """Findings of a file; with a fix, those that are left, and how far the fixed model is from the given one.

    `note` says why the two were not compared, where they were not.
    """

    findings: tuple[Finding, ...]
    fixed: FixResult | None = None
    note: str = ""

    @property
    def passes(self) -> bool:
        left = self.findings if self.fixed is None else self.fixed.after
        return all(finding.severity != "error" for finding in left)

    def to_json(self) -> dict[str, Any]:
        return {
            "passes": self.passes,
            "findings": [finding.to_json() for finding in self.findings],
            "fixed": self.fixed.to_json() if self.fixed is not None else None,
            "note": self.note,
        }


def lint_file(model: Path, target: str, fix: Path | None = None) -> LintReport:
    """Lint an ONNX file, and write a fixed copy to `fix` where it is given.

    The two are compared on seeded random inputs in ONNX Runtime, literally, in a process of its own.

    Raises:
        InvalidModelError: the file is hostile or no valid ONNX model.
        UsageError: the target has no table.
    """
    check_model(model)
    if fix is None:
        return LintReport(lint_model(model, target))
    result = fix_model(model, fix, target)
    try:
        return LintReport(result.before, replace(result, differences=compare_files(model, fix)))
    except EngineError as error:
        # What TensorRT refuses, ONNX Runtime may refuse too; the fix itself is written all the same.
        return LintReport(result.before, result, f"not compared with the given model: {error}")


def require_conformance(model: Path, target: str, ranges: Mapping[str, object]) -> tuple[Finding, ...]:
    """Check the graph that a target is about to build. Warnings are returned; a target without a table has none.

    Raises:
        EngineError: the target would refuse the graph, or compute something else than it says.
    """
    if target not in TARGETS:
        return ()
    findings = lint_model(model, target, ranges=ranges)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = [f"\n  - {error}" for error in errors[:MOST_NAMED]]
        more = f"\n  - and {len(errors) - MOST_NAMED} more" if len(errors) > MOST_NAMED else ""
        raise EngineError(
            f"{target} does not take the graph as it is meant:{''.join(lines)}{more}\n"
            "Add the pass `conform-tensorrt` to `graph_passes`, or run `enginery lint MODEL.onnx --fix OUT.onnx`."
        )
    return findings
