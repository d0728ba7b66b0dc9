"""Lint: what of an ONNX file a target does not take, and a copy of the file that it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from enginery.errors import UsageError
from enginery.passes.base import Feeds, OpenModel
from enginery.passes.graph.conformance.base import Finding

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.difference import Difference

TARGETS: Final = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
"""Targets that have a table."""


@dataclass(frozen=True)
class FixResult:
    """What fixing did: findings before and after, and the largest error of each output against the given model."""

    before: tuple[Finding, ...]
    after: tuple[Finding, ...]
    changed: int
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "before": [finding.to_json() for finding in self.before],
            "after": [finding.to_json() for finding in self.after],
            "changed": self.changed,
            "differences": [asdict(difference) for difference in self.differences],
        }


def lint_model(
    model: Path, target: str = "tensorrt", *, ranges: Mapping[str, object] | None = None
) -> tuple[Finding, ...]:
    """Everything in the ONNX file that the target does not take as it is meant. Nothing is run, nothing written.

    `ranges` names the dynamic dimensions that have a range; None leaves that open.

    Raises:
        UsageError: the target has no table.
        InvalidModelError: the file is no valid ONNX model.
    """
    _check_target(target)
    return lint_graph(_resolved(model), target, ranges=ranges)


def _resolved(model: Path) -> gs.Graph:
    """The graph as the rules read it: functions inlined, and constants stand as constants, however they were written.

    A scale may come from a Constant node, through an Identity, or out of a few constants; TensorRT folds all of these.
    """
    from enginery.passes.graph.clean.fold_constants import FoldConstants
    from enginery.passes.graph.clean.remove_identities import RemoveIdentities
    from enginery.passes.graph.ir import load_graph
    from enginery.passes.graph.shapes import infer_shapes

    graph = load_graph(model, inline=True)
    FoldConstants().apply(graph)
    RemoveIdentities().apply(graph)
    infer_shapes(graph)
    return graph


def lint_graph(
    graph: gs.Graph, target: str = "tensorrt", *, ranges: Mapping[str, object] | None = None
) -> tuple[Finding, ...]:
    """The findings in a graph whose shapes are inferred, each once, in the order of the table."""
    from enginery.passes.graph.conformance.tensorrt import tensorrt_rules
    from enginery.passes.graph.edit import Edits, Names, scopes

    names = Names(graph)
    edits = [Edits(scope, names) for scope in scopes(graph)]
    rules = [rule for rule in tensorrt_rules(ranges) if rule.concerns(target)]
    found = (rule.finding(match) for rule in rules for scope in edits for match in rule.matches(scope))
    return tuple(dict.fromkeys(found))


def fix_model(
    model: Path,
    output: Path,
    target: str = "tensorrt",
    *,
    open_model: OpenModel | None = None,
    feeds: Sequence[Feeds] = (),
    ranges: Mapping[str, object] | None = None,
) -> FixResult:
    """Write a copy of the ONNX file in a form that the target takes, and measure what that changed.

    With `open_model` and `feeds` both files are run and compared; without, `differences` is empty.

    Raises:
        UsageError: the target has no table.
        InvalidModelError: the file is no valid ONNX model.
        PassError: the fixed model lost an output, or changed its shape or type.
    """
    from enginery.passes.difference import worst_differences
    from enginery.passes.graph.conformance.tensorrt import ConformTensorRT
    from enginery.passes.graph.ir import save_graph
    from enginery.passes.graph.shapes import infer_shapes
    from enginery.passes.sequence import check

    _check_target(target)
    graph = _resolved(model)
    before = lint_graph(graph, target, ranges=ranges)
    result = ConformTensorRT().apply(graph)
    if result.changed:
        check(graph)
        infer_shapes(graph)
    after = lint_graph(graph, target, ranges=ranges)
    save_graph(graph, output)
    differences: tuple[Difference, ...] = ()
    if open_model is not None:
        old, new = open_model(model, optimize=False), open_model(output, optimize=False)
        differences = worst_differences((old(feed), new(feed)) for feed in feeds)
    return FixResult(before, after, result.changed, differences)


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise UsageError(f"There is no lint for the target {target!r}. Available: {', '.join(TARGETS)}.")
