"""Many architectures with random weights: exported, passed through every pass, and right at several shapes?

    python bench/zoo.py [--only NAME ...] [--limit SECONDS] [--json FILE] [--check] [--quick]

Each runs in a process of its own with a time limit, so that one that hangs or dies costs only itself. A row says
whether it exported, whether the export was right at four shapes (largest error relative to the output's scale, which
must not be near zero), whether it still was after all passes, what was recognized, what was refused first, and the
time against ONNX Runtime's default session on the plain export.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measure import Ask, conclude, options, print_machine, print_table

LIMIT = 240
TOLERANCE = 1e-3
CANONICAL = ("Attention", "LayerNormalization", "RMSNormalization", "RotaryEmbedding", "Gelu", "HardSwish")
QUICK = ("bert", "llama", "resnet", "mobilenetv3")
SIZES = ({"batch": 1, "seq": 3}, {"batch": 2, "seq": 11}, {"batch": 3, "seq": 8}, {"batch": 4, "seq": 17})


def main() -> int:
    parser = options("Many architectures through every pass.")
    parser.add_argument("--only", nargs="*", help="these architectures")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for each")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(examine(given.one)))
        return 0
    from zoo_models import MODELS

    print_machine("onnxruntime", "torch", "onnx", "transformers", "timm")
    names = given.only or (QUICK if given.quick else list(MODELS))
    rows = []
    for name in names:
        rows.append(row := run(name, given.limit))
        print(f"{name}: {row['state']}", file=sys.stderr)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print_table(
        ["model", "state", "error before", "after", "nodes", "recognized", "first refusal", "time ratio"],
        map(cells, rows),
    )
    right = sum(row["state"] == "right" for row in rows)
    honest = sum(row["state"] in ("right", "not exported", "export wrong") for row in rows)
    slow = [row["ratio"] for row in rows if "ratio" in row]
    asks = [
        Ask("architectures examined", len(rows), len(names) if given.quick or given.only else 60, at_least=True),
        Ask("right, or refused before the passes", honest, len(rows), at_least=True),
        Ask("slowest against ONNX Runtime's default", max(slow, default=0.0), 1.02),
    ]
    print(f"\n{right} of {len(rows)} right after all passes")
    return conclude(asks, check=given.check)


def cells(row: dict[str, Any]) -> list[object]:
    nodes = f"{row['nodes_before']} -> {row['nodes_after']}" if "nodes_after" in row else ""
    found = ", ".join(f"{count} {op}" for op, count in row.get("recognized", {}).items())
    reason = row.get("reason", "")[:90].replace("|", "/").replace("\n", " ")
    return [
        row["name"],
        row["state"],
        row.get("before", ""),
        row.get("after", ""),
        nodes,
        found,
        reason,
        row.get("ratio", ""),
    ]


def run(name: str, limit: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "state": "timed out", "reason": f"over {limit} s"}
    if done.returncode:
        return {"name": name, "state": "died", "reason": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def examine(name: str) -> dict[str, Any]:
    """One architecture, in this process."""
    import torch
    from exports import export
    from zoo_models import MODELS

    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = MODELS[name]()
    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        plain = folder / "plain.onnx"
        try:
            export(example, plain)
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is a row of the table
            return row | {"state": "not exported", "reason": f"{type(error).__name__}: {_last_line(error)}"}
        return row | judged(example, plain, folder)


def judged(example: Any, plain: Path, folder: Path) -> dict[str, Any]:
    import numpy as np
    import onnx
    from exports import resized

    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes

    names = {name for axes in example.dims.values() for name in axes.values()}
    feeds = [resized(example, {k: v for k, v in sizes.items() if k in names}, seed) for seed, sizes in enumerate(SIZES)]
    wanted = [answers(example, feed) for feed in feeds]
    arrays = [{name: tensor.numpy() for name, tensor in feed.items()} for feed in feeds]
    scale = min(float(np.abs(a[0]).max()) for a in wanted)
    if not scale > 1e-3:
        return {"state": "no scale", "reason": f"the output's largest value is {scale:g}"}
    try:
        before = error_of(open_model(plain), arrays, wanted)
    except EngineryError as error:
        return {"state": "export wrong", "reason": _last_line(error)}
    row: dict[str, Any] = {"before": before}
    if not before <= TOLERANCE:
        return row | {"state": "export wrong", "reason": f"the plain export differs by {before:.2g} of its scale"}
    try:
        records = run_graph_passes(
            plain, folder / "out.onnx", default_passes("onnxruntime-cpu"), open_model=open_model, feeds=arrays
        )
        row["after"] = error_of(open_model(folder / "out.onnx"), arrays, wanted)
    except EngineryError as error:
        return row | {"state": "refused", "reason": str(error)[:400]}
    refusals = [
        str(refusal) for record in records if record.name.startswith("fuse") for refusal in record.result.refusals
    ]
    found = Counter(node.op_type for node in onnx.load(folder / "out.onnx", load_external_data=False).graph.node)
    return row | {
        "state": "right" if row["after"] <= TOLERANCE else "wrong",
        "nodes_before": records[0].nodes_before,
        "nodes_after": records[-1].nodes_after,
        "recognized": {op: found[op] for op in CANONICAL if found[op]},
        "reason": refusals[0] if refusals else "",
        "ratio": faster(plain, folder / "out.onnx", arrays[-1]),
    }


def answers(example: Any, feed: dict[str, Any]) -> list[Any]:
    import torch
    from exports import Flat

    with torch.no_grad():
        return [tensor.numpy() for tensor in Flat(example.module, list(feed))(*feed.values())]


def error_of(run_model: Any, feeds: list[dict[str, Any]], wanted: list[list[Any]]) -> float:
    """The largest error of any output at any shape, relative to that output's scale."""
    import numpy as np

    worst = 0.0
    for feed, expected in zip(feeds, wanted, strict=True):
        given = run_model(feed)
        for one, other in zip(expected, given.values(), strict=True):
            if one.shape != other.shape:
                return float("inf")
            if one.dtype.kind == "f" and one.size:
                worst = max(worst, float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-6)))
    return worst


def faster(plain: Path, better: Path, feed: dict[str, Any]) -> float:
    from fusions import SLOW, session
    from measure import interleaved, ratio

    sessions = {"plain": session(plain, []), "better": session(better, SLOW)}
    start = time.perf_counter()
    sessions["plain"](feed)
    rounds = max(5, min(60, int(4 / max(time.perf_counter() - start, 1e-4))))
    timings = interleaved({name: (lambda call=call: call(feed)) for name, call in sessions.items()}, rounds=rounds)
    return ratio(timings["better"], timings["plain"]).median


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:300]


if __name__ == "__main__":
    sys.exit(main())
