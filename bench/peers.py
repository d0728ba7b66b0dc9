"""Ours beside what a user would pick instead: every candidate of every model at every shape, in turns in one process.

    python bench/peers.py --work FOLDER [--peers FOLDER] [--only minilm,resnet50] [--check] [--quick]
    python bench/peers.py --work FOLDER --peers FOLDER --build      # takes long, needs no quiet machine
    python bench/peers.py --work FOLDER --built --only minilm       # measures what was built: minutes, all alone
    python bench/peers.py --work FOLDER --write                     # all that was measured, into docs/benchmarks.md

Ratios are to ONNX Runtime's default float session on the plain export, with their quartiles. Beside each stands the
cosine of the first output to that session's, on evaluation data (mean and worst): a candidate below the fidelity of
its kind is marked wrong, however fast. Peers in environments of their own (`bench/contest/setup FOLDER` makes them)
are left out, by name, where they are absent. What was built and measured stays in `--work`.
"""

from __future__ import annotations

import datetime as dt
import gc
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import floor
import measure
from contest.builds import Builder
from contest.cases import CASES, Case, Shape, feeds_of
from contest.checks import BASELINE, INTEGER, Checked, check, kept
from contest.publish import Measured, Row, publish
from contest.sessions import Run, open_candidate
from contest.work import multiply_accumulates

MINILM = 0.998
"""The mean cosine that is asked of MiniLM in int8."""

RECORD = "measured.json"


def contest(name: str, case: Case, arguments: measure.argparse.Namespace) -> Measured | None:
    """Measure one model at its shapes; None where only building was asked for."""
    builder = Builder(case, arguments.work, arguments.peers, arguments.threads)
    found = kept(builder.folder) if arguments.built else check(builder, quick=arguments.quick)
    if arguments.build:
        return None
    runs = {each.built.name: open_candidate(each.built, builder) for each in found if not each.reason}
    how = f"{arguments.threads} threads" + (", processor time" if arguments.processor_time else "")
    machine = measure.machine("onnxruntime", "openvino", "torch")
    peaks = floor.peaks(quick=True, threads=arguments.threads)
    result = Measured(dt.datetime.now(tz=dt.UTC).date().isoformat(), how, machine, peaks)
    result.left_out = {each.built.name: each.reason for each in found if each.reason}
    for shape in reversed(case.shapes):  # The largest comes nearest to the peak.
        if not arguments.shapes or shape.name in arguments.shapes.split(","):
            rows = at_shape(name, case, shape, runs, [each for each in found if not each.reason], peaks, arguments)
            measure.print_table(Row.HEADERS, [row.cells() for row in rows])
            result.rows += rows
    del runs
    gc.collect()
    result.save(builder.folder / RECORD)
    return result


def at_shape(
    name: str,
    case: Case,
    shape: Shape,
    runs: Mapping[str, Run],
    found: list[Checked],
    peaks: dict[str, float],
    arguments: measure.argparse.Namespace,
) -> list[Row]:
    feeds = feeds_of(case, shape)
    calls = {key: (lambda run=run: run(feeds)) for key, run in runs.items()}
    load = os.getloadavg()[0]
    clock = time.process_time if arguments.processor_time else time.perf_counter
    rounds = rounds_for(calls, arguments.seconds / (4 if arguments.quick else 1))
    timed = measure.interleaved(calls, rounds=rounds, clock=clock)
    model = next(each.built.path for each in found if each.built.name == BASELINE)
    operations = 2 * multiply_accumulates(model, {key: array.shape for key, array in feeds.items()})
    for each in found:  # A single product is no peak where whole models are faster.
        reached = operations / timed[each.built.name].median
        peaks[data_type(each)] = max(peaks[data_type(each)], reached)
    rows: list[Row] = []
    for each in found:
        built, seconds = each.built, timed[each.built.name].median
        ratio = measure.ratio(timed[built.name], timed[BASELINE])
        floors = seconds * peaks[data_type(each)]
        rows.append(
            Row(
                name, shape.name, built.name, ratio.median, ratio.low, ratio.high, 1e3 * seconds, floors / operations,
                each.mean, each.worst, each.verdict, built.megabytes, each.run_mb, built.seconds, built.peak_mb,
                load, built.ours,
            )
        )  # fmt: skip
    return rows


def data_type(each: Checked) -> str:
    """What a candidate multiplies in, by the names of `floor.peaks`."""
    return "int8" if each.built.integer else "bfloat16" if "bf16" in each.built.name else "float32"


def rounds_for(calls: Mapping[str, Run], seconds: float) -> int:
    """How many rounds take about `seconds`: each runs every candidate twice."""
    for call in calls.values():  # Some compile at the first call of a shape.
        call()
    begin = time.perf_counter()
    for call in calls.values():
        call()
    return int(min(max(seconds / (2 * (time.perf_counter() - begin)), 5), 40))


def asked(measured: Measured) -> list[measure.Ask]:
    """The fastest of ours of each kind: what `--target auto` chooses at its own shape."""
    asks: list[measure.Ask] = []
    for shape in (shape for name, case in CASES.items() if name == measured.rows[0].model for shape in case.shapes):
        rows = [row for row in measured.rows if row.shape == shape.name and row.ours]
        least = MINILM if measured.rows[0].model == "minilm" else INTEGER
        for words, bound, able in (
            ("int8 allowed", shape.integer, [row for row in rows if row.cosine >= least]),
            ("float-like", shape.floating, [row for row in rows if row.verdict == "float-like"]),
        ):
            if able:
                best = min(able, key=lambda row: row.ratio)
                what = f"{best.model} {shape.name}, {words}: {best.candidate} (cosine {best.cosine:.4f})"
                asks.append(measure.Ask(what, best.ratio, bound))
    return asks


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was built and measured")
    parser.add_argument("--peers", type=Path, default=Path(), help="folder with the peers' environments")
    parser.add_argument("--only", default="", help="comma-separated models")
    parser.add_argument("--shapes", default="", help="comma-separated shapes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="how long each shape is measured, about")
    parser.add_argument("--build", action="store_true", help="build and compare, measure nothing")
    parser.add_argument("--built", action="store_true", help="measure what an earlier run built; build nothing")
    parser.add_argument("--write", action="store_true", help="measure nothing: put what was measured into docs/")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; takes --threads 1")
    arguments = parser.parse_args()
    if arguments.processor_time and arguments.threads != 1:
        parser.error("--processor-time counts waiting threads as work: give --threads 1")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    arguments.work.mkdir(parents=True, exist_ok=True)
    measure.print_machine("onnxruntime", "openvino", "torch")
    names = [name for name in arguments.only.split(",") if name] or (["minilm"] if arguments.quick else list(CASES))
    if arguments.write:
        files = [arguments.work / name / RECORD for name in names]
        found = [Measured.load(file) for file in files if file.exists()]
        publish(found, [ask for each in found for ask in asked(each)])
    else:
        found = [result for name in names if (result := contest(name, CASES[name], arguments)) and result.rows]
    return measure.conclude([ask for each in found for ask in asked(each)], check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
