"""A second opinion on small graphs: ONNX's own reference evaluator, which shares no kernel with the runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from enginery.errors import PassError
from enginery.passes.base import Arrays, Feeds
from enginery.passes.difference import measure

MOST_NODES: Final = 1000
MOST_BYTES: Final = 32 << 20
SLOW: Final = frozenset({"Conv", "ConvTranspose", "GRU", "LSTM", "Loop", "RNN", "Resize", "Scan"})
"""Operators that the evaluator walks through element by element."""


def second_opinion(before: Path, after: Path, feeds: Feeds, expected: Arrays, tolerance: float) -> str:
    """Evaluate both models and compare them.

    Args:
        before: the model before the first pass.
        after: the model after the last.
        feeds: one set of inputs, a small one.
        expected: what the runtime answered to them before the first pass.
        tolerance: largest error, relative to each output's scale.

    Returns:
        What came of it: "agrees", or why the evaluator was not asked or is not believed.

    Raises:
        PassError: the evaluator agrees with the runtime on the model before, and not on the model after.
    """
    for path in (before, after):
        if reason := _not_asked(path):
            return f"not asked: {reason}"
    try:
        old, new = (_evaluate(path, feeds, expected) for path in (before, after))
    except Exception as error:  # noqa: BLE001 - the evaluator raises whatever numpy does where it is not complete
        return f"not asked: it raised {type(error).__name__}"
    for name, value in expected.items():
        # It rounds in another order than the runtime: half of this is allowed to be its own.
        allowed = max(2 * tolerance, 1e-4)
        if not measure(name, value, old[name]).within(allowed):
            return f"not believed: it differs from the runtime on {name!r} before the first pass"
        difference = measure(name, value, new[name])
        if not difference.within(allowed):
            raise PassError(
                f"ONNX's reference evaluator finds output {name!r} changed by {difference.absolute:.3g} "
                f"({difference.relative:.3g} of its scale; allowed: {allowed:g}), although the runtime does not. "
                "Run with --prove each and fewer passes to find the one at fault."
            )
    return "agrees"


def _not_asked(path: Path) -> str | None:
    import onnx

    from enginery.passes.graph.ir import external_files

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    size = sum(file.stat().st_size for file in (path, *external_files(model, path.parent)))
    if len(graph.node) > MOST_NODES or size > MOST_BYTES:
        return "the graph is not small"
    slow = next((node.op_type for node in graph.node if node.op_type in SLOW), None)
    foreign = next((node.domain for node in graph.node if node.domain not in ("", "ai.onnx")), None)
    return f"{slow} is slow in it" if slow else f"it does not know the domain {foreign!r}" if foreign else None


def _evaluate(path: Path, feeds: Feeds, expected: Arrays) -> dict[str, Any]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero where the graph does
        values = ReferenceEvaluator(onnx.load(path)).run(list(expected), dict(feeds))
    return dict(zip(expected, values, strict=True))
