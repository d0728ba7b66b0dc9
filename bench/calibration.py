"""Calibration against onnxruntime's own: wall time over the same data, and peak memory at 8 and 512 samples.

    python bench/calibration.py [--only resnet50 minilm/entropy ...] [--measure wall|memory] [--cpu] [--check] [--quick]

ResNet-50 at 224 has random weights, which cost what trained ones cost; MiniLM at length 128 has its own. Every
measurement runs in a process of its own, since peak memory is a process's; both sides read the same arrays and neither
is timed on loading its packages. The two take turns, and the fastest run of each is compared, which what else ran on
the machine has delayed least; the ratios of the rounds stand beside it. Ours is timed with no more than the method
reads: ranges for min-max, histograms for the others. onnxruntime's percentile and entropy keep every activation:
`--samples` bounds what that takes (about 0.1 GB a sample of ResNet-50). `histograms` is one run that the percentile,
entropy and mse observers all read, as `enginery calibrate` does it; its memory stands for theirs. `--cpu` takes
processor time on one core, which other work on the machine hardly moves, in place of the wall.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import measure
import numpy as np
import own_memory

ASKED = {"minmax": 0.9, "percentile": 0.5, "entropy": 0.5}
MEMORY = 1.1
READ = {
    "minmax": ("minmax", "moving-average"),
    "percentile": ("percentile",),
    "entropy": ("entropy",),
    "histograms": ("percentile", "entropy", "mse"),
}
"""The observers that read a run's statistics, by method."""

MODELS = ("resnet50", "minilm")
BATCH = 8
CPU = os.environ.get("CALIBRATION_CLOCK") == "cpu"
CLOCK = time.process_time if CPU else time.perf_counter
"""A worker's; the script that starts it says which."""


def batches(model: str, samples: int) -> Iterator[dict[str, Any]]:
    """Batches of 8, made on the way so that the data takes no memory."""
    for start in range(0, samples, BATCH):
        generator = np.random.default_rng(start)
        if model == "resnet50":
            yield {"x": generator.standard_normal((BATCH, 3, 224, 224), dtype=np.float32)}
        else:
            ids = generator.integers(1000, 30000, (BATCH, 128))
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def ours(file: Path, model: str, samples: int, method: str) -> float:
    import onnx  # noqa: F401 (the other side loads it with its calibrators, before the clock starts)

    from enginery.engines.onnxruntime import import_onnxruntime, open_model
    from enginery.passes.calibration import collect, make_observer

    import_onnxruntime()
    begin = CLOCK()
    found = collect(file, lambda: batches(model, samples), open_model=open_model, histograms=method != "minmax")
    for observer in map(make_observer, READ[method]):
        for tensor in found.tensors.values():
            observer.range(tensor)
    return CLOCK() - begin


def theirs(file: Path, model: str, samples: int, method: str) -> float:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = batches(model, samples)

        def get_next(self) -> Any:
            return next(self.batches, None)

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    begin = CLOCK()
    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(str(file), None, augmented, calibrate_method=kinds[method])
        calibrator.collect_data(Reader())
        calibrator.compute_data()
    return CLOCK() - begin


def measured(who: str, file: Path, model: str, samples: int, method: str) -> dict[str, float]:
    """Seconds and peak resident MiB of one run in a fresh process."""
    command = [sys.executable, __file__, "--worker", who, str(file), model, str(samples), method]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def worker(who: str, file: str, model: str, samples: str, method: str) -> int:
    if CPU:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds = (ours if who == "ours" else theirs)(Path(file), model, int(samples), method)
    print(json.dumps({"seconds": seconds, "peak": own_memory.peak_mib()}))
    return 0


def prepare(model: str, folder: Path) -> Path:
    """Export the model into `folder`."""
    import torch
    from exports import Example, export, minilm

    path = folder / f"{model}.onnx"
    if model == "minilm":
        export(minilm(), path)
        return path
    import timm

    torch.manual_seed(0)
    module = timm.create_model("resnet50", pretrained=False).eval()
    export(Example(module, {"x": torch.randn(2, 3, 224, 224)}, {"x": {0: "batch"}}), path)
    return path


def wall(
    file: Path, model: str, method: str, samples: int, rounds: int, clock: str
) -> tuple[list[object], measure.Ask]:
    """Our time over onnxruntime's, in turns."""
    turns = [[measured(who, file, model, samples, method) for who in ("ours", "theirs")] for _ in range(rounds)]
    ratios = [mine["seconds"] / peer["seconds"] for mine, peer in turns]
    fastest, peak = (
        min(mine[key] for mine, _ in turns) / min(peer[key] for _, peer in turns) for key in ("seconds", "peak")
    )
    row: list[object] = [model, method, samples, fastest, min(ratios), max(ratios), peak]
    return row, measure.Ask(f"{model}, {method}: {clock} of onnxruntime's", fastest, ASKED[method])


def memory(file: Path, model: str, method: str, many: int) -> tuple[list[object], measure.Ask]:
    few, lots = (measured("ours", file, model, count, method)["peak"] for count in (BATCH, many))
    what = "all histogram observers" if method == "histograms" else "min-max and moving average"
    row: list[object] = [model, what, few, lots, lots / few]
    return row, measure.Ask(f"{model}, {what}: peak memory at {many} samples of that at {BATCH}", lots / few, MEMORY)


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--only", nargs="+", default=(), metavar="MODEL[/METHOD]", help="what to measure")
    parser.add_argument("--measure", choices=("wall", "memory"), help="one of the two [both]")
    parser.add_argument("--cpu", action="store_true", help="processor time on one core in place of the wall")
    parser.add_argument("--samples", type=int, default=32, help="for the wall time against onnxruntime [32]")
    arguments = parser.parse_args()
    if arguments.cpu:
        os.environ["CALIBRATION_CLOCK"] = "cpu"
    clock = "cpu" if arguments.cpu else "wall"
    known = {f"{model}/{method}" for model in MODELS for method in READ} | set(MODELS)
    if unknown := sorted(set(arguments.only) - known):
        parser.error(f"there is no {unknown[0]!r}; available: {', '.join(sorted(known))}")

    def wanted(model: str, method: str) -> bool:
        if not arguments.only:
            return model == "minilm" or not arguments.quick
        return bool({model, f"{model}/{method}"} & set(arguments.only))

    samples, many, rounds = (BATCH, 3 * BATCH, 1) if arguments.quick else (arguments.samples, 512, 5)
    measure.print_machine("onnxruntime", "onnx", "numpy")
    walls: list[list[object]] = []
    peaks: list[list[object]] = []
    asks: list[measure.Ask] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            timed = [method for method in ASKED if arguments.measure != "memory" and wanted(model, method)]
            weighed = [each for each in ("minmax", "histograms") if arguments.measure != "wall" and wanted(model, each)]
            file = prepare(model, Path(folder)) if timed or weighed else Path()
            for method in timed:
                row, ask = wall(file, model, method, samples, rounds, clock)
                walls.append(row)
                print(ask, file=sys.stderr)
                asks.append(ask)
            for method in weighed:
                row, ask = memory(file, model, method, many)
                peaks.append(row)
                print(ask, file=sys.stderr)
                asks.append(ask)
    if walls:
        measure.print_table(["model", "method", "samples", f"{clock} / ort", "least", "most", "peak / ort"], walls)
    if peaks:
        print()
        measure.print_table(["model", "observers", f"MiB at {BATCH}", f"MiB at {many}", "ratio"], peaks)
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(worker(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main())
