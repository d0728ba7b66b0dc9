"""Ours beside what a user would pick instead: every candidate of every model at every shape, in turns in one process.

    python bench/peers.py --work FOLDER [--peers FOLDER] [--only minilm,resnet50] [--write] [--check] [--quick]

Ratios are to ONNX Runtime's default float session on the plain export, with their quartiles. Beside each stands the
cosine of the first output to that session's, on evaluation data (mean and worst): a candidate below the fidelity of
its kind is marked wrong, however fast. Peers in environments of their own (`bench/contest/setup FOLDER` makes them)
are left out, by name, where they are absent. What was built stays in `--work`; `--write` puts the figures and a plot
into docs/.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import measure
import numpy as np
from contest.builds import Builder, Built
from contest.cases import CASES, Case, Shape, feeds_of
from contest.publish import Row, publish
from contest.sessions import Run, open_candidate

FLOAT, INTEGER, MINILM = 0.9999, 0.97, 0.998
"""Mean cosines: float-like, least for an int8 candidate to count as right, and what is asked of MiniLM's."""

BASELINE = "onnxruntime"


@dataclass(frozen=True)
class Fidelity:
    mean: float
    worst: float

    def verdict(self, *, integer: bool) -> str:
        if self.mean >= FLOAT:
            return "float-like"
        return "int8" if integer and self.mean >= INTEGER else "wrong"


def fidelity(run: Run, exact: list[np.ndarray], batches: list[dict[str, np.ndarray]]) -> Fidelity:
    cosines: list[float] = []
    for feeds, expected in zip(batches, exact, strict=True):
        found = run(feeds)
        left, right = (each.reshape(len(each), -1).astype(np.float64) for each in (found, expected))
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines += list((left * right).sum(axis=1) / np.maximum(norms, 1e-30))
    return Fidelity(float(np.mean(cosines)), float(np.min(cosines)))


def opened(candidates: list[Built], builder: Builder) -> dict[str, tuple[Built, Run]]:
    """What can be opened; the rest is printed with its reason."""
    found: dict[str, tuple[Built, Run]] = {}
    for built in candidates:
        reason = built.reason
        if not reason:
            try:
                found[built.name] = built, open_candidate(built, builder)
            except Exception as error:  # noqa: BLE001 - another project's failure, of whatever kind, is a row
                reason = f"cannot be opened: {str(error).splitlines()[0][:160]}"
        if reason:
            print(f"left out: {built.name}: {reason}", flush=True)
    return found


def contest(name: str, case: Case, arguments: measure.argparse.Namespace) -> tuple[list[Row], list[measure.Ask]]:
    builder = Builder(case, arguments.work, arguments.peers, arguments.threads)
    candidates = list(builder.everything(quick=arguments.quick))
    if arguments.build:
        return [], []
    runs = opened(candidates, builder)
    batches = builder.evaluation()
    exact = [runs[BASELINE][1](feeds).copy() for feeds in batches]
    faithful = {key: fidelity(run, exact, batches) for key, (_, run) in runs.items()}
    rows: list[Row] = []
    asks: list[measure.Ask] = []
    for shape in case.shapes:
        found = at_shape(name, case, shape, runs, faithful, arguments)
        rows += found
        asks += asked(name, shape, found)
    del runs
    gc.collect()
    return rows, asks


def at_shape(
    name: str,
    case: Case,
    shape: Shape,
    runs: dict[str, tuple[Built, Run]],
    faithful: dict[str, Fidelity],
    arguments: measure.argparse.Namespace,
) -> list[Row]:
    feeds = feeds_of(case, shape)
    calls = {key: (lambda run=run: run(feeds)) for key, (_, run) in runs.items()}
    load = os.getloadavg()[0]
    clock = time.process_time if arguments.processor_time else time.perf_counter
    timed = measure.interleaved(calls, rounds=7 if arguments.quick else arguments.rounds, clock=clock)
    rows: list[Row] = []
    for key, (built, _) in runs.items():
        ratio = measure.ratio(timed[key], timed[BASELINE])
        verdict = faithful[key].verdict(integer=built.integer)
        rows.append(
            Row(
                name, shape.name, key, ratio.median, ratio.low, ratio.high, 1e3 * timed[key].median,
                faithful[key].mean, faithful[key].worst, verdict, built.megabytes, built.seconds, built.peak_mb,
                load, built.ours,
            )
        )  # fmt: skip
    return rows


def asked(name: str, shape: Shape, rows: list[Row]) -> list[measure.Ask]:
    """The fastest of ours of each kind: what `--target auto` chooses at its own shape."""
    asks: list[measure.Ask] = []
    least = MINILM if name == "minilm" else INTEGER
    for words, bound, able in (
        ("int8 allowed", shape.integer, lambda row: row.cosine >= least),
        ("float-like", shape.floating, lambda row: row.verdict == "float-like"),
    ):
        ours = [row for row in rows if row.ours and able(row)]
        if ours:
            best = min(ours, key=lambda row: row.ratio)
            what = f"{name} {shape.name}, {words}: {best.candidate} (cosine {best.cosine:.4f})"
            asks.append(measure.Ask(what, best.ratio, bound))
    return asks


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was built")
    parser.add_argument("--peers", type=Path, default=Path(), help="folder with the peers' environments")
    parser.add_argument("--only", default="", help="comma-separated models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--build", action="store_true", help="build what is missing and stop, before a quiet machine")
    parser.add_argument("--write", action="store_true", help="put figures and plot into docs/")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; takes --threads 1")
    arguments = parser.parse_args()
    if arguments.processor_time and arguments.threads != 1:
        parser.error("--processor-time counts waiting threads as work: give --threads 1")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    arguments.work.mkdir(parents=True, exist_ok=True)
    measure.print_machine("onnxruntime", "openvino", "torch")
    names = [name for name in arguments.only.split(",") if name] or (["minilm"] if arguments.quick else list(CASES))
    rows: list[Row] = []
    asks: list[measure.Ask] = []
    for name in names:
        found, wanted = contest(name, CASES[name], arguments)
        if not found:
            continue
        measure.print_table(Row.HEADERS, [row.cells() for row in found])
        rows += found
        asks += wanted
    if arguments.write:
        publish(rows, asks, f"{arguments.threads} threads" + (", processor time" if arguments.processor_time else ""))
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
