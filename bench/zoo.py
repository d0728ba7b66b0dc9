"""Many architectures with random weights: exported, passed through every pass, and right at several shapes?

    python bench/zoo.py [--only NAME ...] [--minutes M] [--table] [--again] [--retime] [--check] [--quick]

Each runs in a process of its own with a time limit, so that one that hangs or dies costs only itself; results are kept,
and the next call goes on. A row says whether it exported, whether it is right at every shape after all passes (largest
error relative to the output's scale, which must not be near zero), what was recognized, what was refused, and the
processor time of one thread over that of ONNX Runtime's default session on the plain export. `--retime` times again
those slower than 1.02: do it on an idle machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from each import Row, Study, command_line, first_line, names_of, parse, print_sources
from measure import Ask, conclude, print_machine, print_table
from zoo_exports import EXPORTS

LIMIT: Final = 240
TARGET: Final = "onnxruntime-cpu"
TOLERANCE: Final = 1e-4
SLOWER: Final = 1.02
CANONICAL: Final = (
    "Attention", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization",
    "RotaryEmbedding", "Gelu", "FastGelu", "HardSwish", "MultiHeadAttention", "GroupQueryAttention",
    "SkipLayerNormalization", "QuickGelu", "Swish",
)  # fmt: skip
MOST: Final = 240
"""Characters of a reason that the table shows."""

HONEST: Final = ("right", "not exported", "export wrong")
HEADERS: Final = ("model", "state", "shapes", "error", "nodes", "recognized", "why not, or what was not fused", "time")


def main() -> int:
    retime = f"time again those above {SLOWER}, on an idle machine"
    given = parse(command_line("Many architectures through every pass.", limit=LIMIT, retime=retime))
    from zoo_models import MODELS

    print_machine("onnxruntime", "torch", "onnx", "transformers", "timm")
    names = names_of(given, list(MODELS))
    rows = [row | judged(given, row) for row in EXPORTS.rows(given, names, make=not given.retime)]
    print_table(HEADERS, map(cells, rows))
    states = Counter(row["state"] for row in rows)
    print("\n" + ", ".join(f"{count} {state}" for state, count in states.most_common()))
    print_sources([row for row in rows if "nodes_after" in row])
    asks = [
        Ask("architectures examined", len(rows), min(60, len(names)), at_least=True),
        Ask("right, or refused before the passes", sum(map(honest, rows)), len(rows), at_least=True),
        Ask("slowest against ONNX Runtime's default", max((row.get("ratio", 0.0) for row in rows), default=0), SLOWER),
    ]
    return conclude(asks, check=given.check)


def judged(given: Any, row: Row) -> Row:
    """What the passes did to what was exported."""
    if row["state"] != "exported":
        return {}
    names = [row["name"]]
    found = next(Study("passes", examine).rows(given, names, make=not given.retime), {"state": "not yet examined"})
    if found.get("ratio", 0.0) > SLOWER:
        found |= next(Study("times", timed).rows(given, names, make=given.retime, again=True), {})
    return found


def honest(row: Row) -> bool:
    return row["state"] in HONEST


def cells(row: Row) -> list[object]:
    nodes = f"{row['nodes_before']} -> {row['nodes_after']}" if "nodes_after" in row else ""
    found = ", ".join(f"{count} {op}" for op, count in row.get("recognized", {}).items())
    notes = [f"prepared: {row['prepared']}"] if row.get("prepared") else []
    notes += [row["reason"]] if row.get("reason") else []
    text = "; ".join(notes).replace("|", "/").replace("\n", " ")
    text = f"{text[:MOST]}…" if len(text) > MOST else text
    ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if "ratio" in row else ""
    return [row["name"], row["state"], row.get("shapes", ""), row.get("error", ""), nodes, found, text, ratio]


def examine(name: str, results: Path) -> Row:
    """One architecture, in this process."""
    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes
    from enginery.pipeline.comparison.reference import ShapesReference

    folder = results / "exports" / name
    reference = ShapesReference.open(folder)
    feeds = [reference.inputs_of(case) for case in reference.cases]
    with tempfile.TemporaryDirectory() as text:
        output = Path(text) / "out.onnx"
        try:
            records = run_graph_passes(
                folder / "model" / "model.onnx", output, default_passes(TARGET), open_model=open_model, feeds=feeds
            )
            error = largest_error(reference, open_model(output), feeds)
        except EngineryError as failure:
            return {"state": "refused", "reason": first_line(failure)}
        row = {"state": "right" if error <= TOLERANCE else "wrong", "error": error, **account(records, output)}
        return row | faster(folder / "model" / "model.onnx", output, feeds)


def account(records: Any, output: Path) -> Row:
    """What the passes recognized and what they refused."""
    import onnx

    refusals = Counter(
        f"{record.name}: {refusal.reason}"
        for record in {record.name: record for record in records if record.name.startswith("fuse")}.values()
        for refusal in record.result.refusals
    )
    found = Counter(node.op_type for node in onnx.load(output, load_external_data=False).graph.node)
    return {
        "nodes_before": records[0].nodes_before,
        "nodes_after": records[-1].nodes_after,
        "recognized": {op: found[op] for op in CANONICAL if found[op]},
        "reason": "; ".join(f"{count}x {text}" for text, count in refusals.most_common(2)),
    }


def largest_error(reference: Any, run: Any, feeds: Any) -> float:
    """The largest error of any output at any shape, relative to that output's scale there."""
    from enginery.pipeline.comparison.outputs import compare

    worst = 0.0
    for case, feed in zip(reference.cases, feeds, strict=True):
        found = compare(reference.outputs_of(case), run(feed), reference.outputs, TOLERANCE)
        smallest = found.smallest_tolerance
        worst = max(worst, float("inf") if smallest is None else smallest)
    return worst


def timed(name: str, results: Path) -> Row:
    """The times of one architecture alone."""
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes
    from enginery.pipeline.comparison.reference import ShapesReference

    folder = results / "exports" / name
    reference = ShapesReference.open(folder)
    feeds = [reference.inputs_of(case) for case in reference.cases]
    with tempfile.TemporaryDirectory() as text:
        output = Path(text) / "out.onnx"
        source = folder / "model" / "model.onnx"
        run_graph_passes(source, output, default_passes(TARGET), open_model=open_model, prove="off")
        return faster(source, output, feeds)


def faster(plain: Path, better: Path, feeds: Any) -> Row:
    """Our time over ONNX Runtime's default session on the plain export, at the largest shape.

    Processor time of one thread, which other work on the machine hardly moves.
    """
    from fusions import SLOW, session
    from measure import interleaved, ratio

    feed = max(feeds, key=lambda each: sum(array.size for array in each.values()))
    sessions = {"plain": session(plain, [], 1), "better": session(better, SLOW, 1)}
    sessions["plain"](feed)
    start = time.perf_counter()
    sessions["plain"](feed)
    rounds = max(9, min(100, int(3 / max(time.perf_counter() - start, 1e-4) / 4)))
    calls = {name: (lambda call=call: call(feed)) for name, call in sessions.items()}
    timings = interleaved(calls, rounds=rounds, clock=time.process_time)
    found = ratio(timings["better"], timings["plain"])
    return {"ratio": found.median, "low": found.low, "high": found.high}


if __name__ == "__main__":
    sys.exit(main())
