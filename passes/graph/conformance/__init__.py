"""What a target's parser and builder accept, as a table of rules: lint, and fixes.

`lint_model` and `fix_model` work on files; `ConformTensorRT` is the same fixes as a graph pass.
"""

from __future__ import annotations

from enginery.passes.graph.conformance.base import Finding
from enginery.passes.graph.conformance.lint import TARGETS, FixResult, fix_model, lint_graph, lint_model

__all__ = ["TARGETS", "Finding", "FixResult", "fix_model", "lint_graph", "lint_model"]
