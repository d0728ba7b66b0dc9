"""Optimize: run graph passes over the ONNX graph, with a numerical proof after each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enginery.engines.base import Feeds
from enginery.passes.base import GraphPass, OpenModel
from enginery.passes.sequence import PassRecord, Prove, default_prove, run_graph_passes
from enginery.pipeline.files import pretty_json

RECORD = "passes.json"
MEASURED = "measured.json"


def optimize(
    folder: Path,
    *,
    model: Path,
    passes: Sequence[GraphPass],
    open_model: OpenModel,
    feeds: Sequence[Feeds],
    prove: Prove | None = None,
) -> None:
    """Write `model/model.onnx`, and `passes.json` with what each pass changed and refused.

    Args:
        folder: empty.
        model: the ONNX file to optimize.
        passes: in order.
        open_model: runs a graph, for the proofs.
        feeds: inputs at several shapes for the proofs; none where ONNX Runtime's CPU kernels cannot run the result
            (bfloat16), which leaves the comparison to the gates.
        prove: None chooses by the size of the weights.

    Raises:
        PassError: a pass failed or changed the numbers.
    """
    (folder / "model").mkdir()
    output = folder / "model" / "model.onnx"
    prove = (prove or default_prove(model)) if feeds else "off"
    records = run_graph_passes(model, output, passes, open_model=open_model, feeds=feeds, prove=prove)
    write_records(folder, records)


def write_records(folder: Path, records: Sequence[PassRecord]) -> None:
    """Write what the passes did, and apart from it how long they took."""
    entries = [record.to_json() for record in records]
    seconds = {str(number): entry.pop("seconds") for number, entry in enumerate(entries)}
    (folder / RECORD).write_text(pretty_json(entries))
    (folder / MEASURED).write_text(pretty_json({"pass_seconds": seconds}))
