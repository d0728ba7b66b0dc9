"""Calibration against onnxruntime's own: wall time of one run over the same data, and memory at 8 and 512 samples.

    python bench/calibration.py [--model path.onnx --shape 3,224,224] [--samples 64] [--check] [--quick]

Without a model it takes timm's resnet50 with random weights, which costs what trained ones cost. Every measurement runs
in a process of its own, since peak memory is a process's. Both read the same arrays.
"""

from __future__ import annotations

import json
import os
import resource
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

METHODS = ("minmax", "percentile", "entropy")
ASKED = {"minmax": 0.9, "percentile": 0.5, "entropy": 0.5}
MEMORY = 1.1


def batches(name: str, shape: tuple[int, ...], samples: int) -> Iterator[dict[str, Any]]:
    """Batches of 8, made on the way so that the data takes no memory."""
    for start in range(0, samples, 8):
        yield {name: np.random.default_rng(start).standard_normal((8, *shape), dtype=np.float32)}


def ours(model: Path, shape: tuple[int, ...], samples: int, method: str) -> None:
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.calibration import collect, make_observer

    name = input_name(model)
    found = collect(model, lambda: batches(name, shape, samples), open_model=open_model, histograms=method != "minmax")
    observer = make_observer(method)
    for tensor in found.tensors.values():
        observer.range(tensor)


def theirs(model: Path, shape: tuple[int, ...], samples: int, method: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    name = input_name(model)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = batches(name, shape, samples)

        def get_next(self) -> Any:
            return next(self.batches, None)

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with tempfile.TemporaryDirectory() as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(str(model), None, augmented, calibrate_method=kinds[method])
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def input_name(model: Path) -> str:
    import onnx

    return onnx.load(model, load_external_data=False).graph.input[0].name


def measured(who: str, model: Path, shape: tuple[int, ...], samples: int, method: str) -> dict[str, float]:
    """Seconds and peak resident MiB of one run in a fresh process."""
    command = [sys.executable, __file__, "--worker", who, str(model), ",".join(map(str, shape)), str(samples), method]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def worker(who: str, model: str, shape: str, samples: str, method: str) -> int:
    sizes = tuple(int(size) for size in shape.split(","))
    begin = time.perf_counter()
    (ours if who == "ours" else theirs)(Path(model), sizes, int(samples), method)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))
    return 0


def random_resnet(folder: Path) -> Path:
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("resnet50", pretrained=False).eval()
    path = folder / "resnet50.onnx"
    example = torch.randn(2, 3, 224, 224)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(model, (example,), str(path), dynamo=True, dynamic_shapes=shapes, external_data=False)
    return path


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", default="3,224,224", help="of one sample")
    parser.add_argument("--samples", type=int, default=64, help="for the wall time against onnxruntime")
    arguments = parser.parse_args()
    shape = tuple(int(size) for size in arguments.shape.split(","))
    samples, many = (16, 64) if arguments.quick else (arguments.samples, 512)
    measure.print_machine("onnxruntime", "onnx", "numpy")
    rows: list[list[object]] = []
    asks: list[measure.Ask] = []
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or random_resnet(Path(folder))
        for method in METHODS:
            mine, peer = (measured(who, model, shape, samples, method) for who in ("ours", "theirs"))
            few, lots = (measured("ours", model, shape, count, method)["peak"] for count in (8, many))
            wall = mine["seconds"] / peer["seconds"]
            rows.append([method, samples, wall, mine["peak"] / peer["peak"], lots / few])
            asks.append(measure.Ask(f"{method}: wall of onnxruntime's", wall, ASKED[method]))
            asks.append(measure.Ask(f"{method}: peak memory at {many} samples of that at 8", lots / few, MEMORY))
    measure.print_table(["method", "samples", "wall / ort", "peak / ort", f"peak {many} / 8"], rows)
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(worker(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main())
