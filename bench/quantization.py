"""Static int8 on real models: task metric, fidelity and latency, against ONNX Runtime's default fp32 and its own int8.

    python bench/quantization.py --work /path/to/keep/results [--only minilm,mobilenet] [--check] [--quick]

Models are built by the development recipes in tests/recipes; what was built is kept in `--work`. `ort` is
onnxruntime.quantization's quantize_static with per-channel weights on the same calibration data. Latencies are ratios
to ONNX Runtime's default session on the exported graph, interleaved in one process. The recipes find the development
data beside the checkout.

vit_small, resnet50 and mobilenetv2 are timm's with random weights and random images: they cost what trained ones cost,
and their latency alone counts. No remedy is tried on them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import measure
import numpy as np

from enginery.engines.onnxruntime import import_onnxruntime
from enginery.pipeline.events import Events
from enginery.pipeline.line import MODEL, Line
from enginery.pipeline.recipe import Mode
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.store import Store

RECIPES = Path(__file__).resolve().parents[1] / "tests" / "recipes"
TARGET = "onnxruntime-cpu"
Run = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One model and what is asked of its int8 engine. `shapes` are the (batch, seq or nothing) whose latency counts."""

    recipe: str
    max_drop: float
    latency: float
    cosine: float | None = None
    worst_cosine: float | None = None
    agreement: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ((1,),)


CASES = {
    "minilm": Case("sts/recipe.yaml", 0.003, 0.45, 0.998, 0.99, shapes=((1, 128), (8, 128))),
    "mobilenet": Case("mobilenet/recipe.yaml", 1.4, 1.0, agreement=88.0),
    "squeezenet": Case("squeezenet/recipe.yaml", 0.5, 1.0),
    "resnet20": Case("cifar/resnet20.yaml", 0.5, 1.0),
    "resnet56": Case("cifar/resnet56.yaml", 0.5, 1.0),
    "kws": Case("kws/recipe.yaml", 0.5, 1.0, shapes=((1,), (8,))),
}
QUICK = ("resnet20", "kws")
RANDOM = {
    "vit_small": ("vit_small_patch16_224", 0.48),
    "resnet50": ("resnet50", 0.33),
    "mobilenetv2": ("mobilenetv2_100", 0.50),
}
"""timm's name, and the latency asked of fp32, of models with random weights."""

RANDOM_RECIPE = """
name: {name}
source: {{timm: {timm}, options: {{pretrained: false}}}}
inputs: {{x: {{dtype: float32, shape: [batch, 3, 224, 224]}}}}
dims: {{batch: {{min: 1, opt: 1, max: 4}}}}
data: {{calibration: {{python: "data.py:images"}}}}
precision: {{mode: int8, passes: []}}
"""
RANDOM_DATA = """
import numpy as np


def images():
    generator = np.random.default_rng(0)
    for _ in range(4):
        yield {"x": generator.standard_normal((2, 3, 224, 224), dtype=np.float32)}
"""


@dataclass(frozen=True)
class Answers:
    """The scored output on all evaluation data, [samples, values], and the task metric."""

    values: np.ndarray
    metric: float

    def cosines(self, other: Answers) -> np.ndarray:
        product = (self.values * other.values).sum(axis=1)
        norms = np.linalg.norm(self.values, axis=1) * np.linalg.norm(other.values, axis=1)
        return product / np.maximum(norms, 1e-30)

    def agreement(self, other: Answers) -> float:
        return 100 * float((self.values.argmax(axis=1) == other.values.argmax(axis=1)).mean())


def answers(line: Line, run: Run) -> Answers:
    begin = line.score()
    assert begin is not None, "the development recipes have a metric"
    assert line.evaluation is not None
    score = begin()
    rows: list[np.ndarray] = []
    for batch in line.evaluation.batches():
        outputs = run(dict(batch.inputs))
        score.update(outputs, batch.labels)
        rows.append(next(iter(outputs.values())))
    scale = 1.0 if line.recipe.metric and line.recipe.metric.name == "spearman-pairs" else 100.0
    return Answers(np.concatenate([row.reshape(len(row), -1) for row in rows]), scale * score.result())


def default_session(model: Path) -> Run:
    """ONNX Runtime as a user gets it."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def ort_int8(line: Line, exported: Path, work: Path) -> Path:
    """The peer: onnxruntime's own static quantization, per-channel weights, min-max."""
    output = work / f"{line.recipe.name}-ort-int8.onnx"
    if output.exists():
        return output
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(line.calibration_feeds()())

        def get_next(self) -> Any:
            return next(self.batches, None)

    prepared = work / f"{line.recipe.name}-prepared.onnx"
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return output


def latency_feeds(line: Line, shape: tuple[int, ...]) -> dict[str, Any]:
    """Inputs of one shape, cut and repeated from the evaluation data; texts fill the whole sequence."""
    assert line.evaluation is not None
    batch = next(iter(line.evaluation.batches()))
    feeds: dict[str, Any] = {}
    for name, array in batch.inputs.items():
        wanted = (*shape, *array.shape[len(shape) :])
        tiles = [-(-size // had) for size, had in zip(wanted, array.shape, strict=True)]
        feeds[name] = np.ascontiguousarray(np.tile(array, tiles)[tuple(slice(size) for size in wanted)])
    for name in feeds.keys() & {"attention_mask"}:
        feeds[name] = np.ones_like(feeds[name])
    return feeds


def bench(name: str, case: Case, work: Path, *, quick: bool) -> tuple[list[list[object]], list[measure.Ask]]:
    line = Line(load_recipe(str(RECIPES / case.recipe)), Store.beside(work), Events())
    precision = line.recipe.precision.model_copy(update={"mode": Mode.INT8})
    exported = line.export.path(MODEL)
    with line.open(TARGET, precision) as session:
        peer = default_session(ort_int8(line, exported, work))
        runs: dict[str, Run] = {"fp32": default_session(exported), "int8": session.run, "ort": peer}
        found = {key: answers(line, run) for key, run in runs.items()}
        ratios: dict[tuple[int, ...], dict[str, measure.Ratio]] = {}
        for shape in case.shapes:
            feeds = latency_feeds(line, shape)
            candidates = {key: (lambda run=run, feeds=feeds: run(feeds)) for key, run in runs.items()}
            timed = measure.interleaved(candidates, rounds=15 if quick else 50)
            ratios[shape] = {key: measure.ratio(timed[key], timed["fp32"]) for key in runs}
    rows: list[list[object]] = []
    for key in runs:
        cosine = found["fp32"].cosines(found[key])
        speed = ", ".join(str(ratios[shape][key]) for shape in case.shapes)
        agreement = "-" if name == "minilm" else found["fp32"].agreement(found[key])
        rows.append([name, key, found[key].metric, float(cosine.mean()), float(cosine.min()), agreement, speed])
    return rows, _asks(name, case, found, {shape: ratios[shape]["int8"].median for shape in case.shapes})


def bench_random(name: str, work: Path, *, quick: bool) -> tuple[list[list[object]], list[measure.Ask]]:
    """The latency alone, at batch 1, of a model with random weights."""
    timm, asked = RANDOM[name]
    folder = work / "random" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RANDOM_RECIPE.format(name=name, timm=timm), encoding="utf-8")
    (folder / "data.py").write_text(RANDOM_DATA, encoding="utf-8")
    line = Line(load_recipe(str(folder / "recipe.yaml")), Store.beside(work), Events())
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    with line.open(TARGET, line.recipe.precision) as session:
        default = default_session(line.export.path(MODEL))
        candidates = {"fp32": lambda: default(feeds), "int8": lambda: session.run(feeds)}
        timed = measure.interleaved(candidates, rounds=15 if quick else 50)
    found = measure.ratio(timed["int8"], timed["fp32"])
    row: list[object] = [name, "int8", *4 * ["-"], str(found)]
    return [row], [measure.Ask(f"{name}: latency at (1,) of fp32", found.median, asked)]


def _asks(name: str, case: Case, found: dict[str, Answers], ratios: dict[tuple[int, ...], float]) -> list[measure.Ask]:
    exact, ours = found["fp32"], found["int8"]
    cosine = exact.cosines(ours)
    asks = [measure.Ask(f"{name}: metric lost", exact.metric - ours.metric, case.max_drop)]
    asks += [measure.Ask(f"{name}: latency at {shape} of fp32", ratio, case.latency) for shape, ratio in ratios.items()]
    if case.cosine is not None and case.worst_cosine is not None:
        asks.append(measure.Ask(f"{name}: mean cosine", float(cosine.mean()), case.cosine, at_least=True))
        asks.append(measure.Ask(f"{name}: worst cosine", float(cosine.min()), case.worst_cosine, at_least=True))
    if case.agreement is not None:
        asks.append(measure.Ask(f"{name}: agreement in %", exact.agreement(ours), case.agreement, at_least=True))
    return asks


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was built")
    parser.add_argument("--only", default="", help="comma-separated names")
    arguments = parser.parse_args()
    every = [*CASES, *RANDOM]
    names = [name for name in arguments.only.split(",") if name] or list(QUICK if arguments.quick else every)
    arguments.work.mkdir(parents=True, exist_ok=True)
    measure.print_machine("onnxruntime", "onnx", "torch", "numpy")
    rows: list[list[object]] = []
    asks: list[measure.Ask] = []
    for name in names:
        if name in RANDOM:
            found, asked = bench_random(name, arguments.work, quick=arguments.quick)
        else:
            found, asked = bench(name, CASES[name], arguments.work, quick=arguments.quick)
        rows += found
        asks += asked
    measure.print_table(["model", "engine", "metric", "cosine", "worst", "agree %", "latency / fp32"], rows)
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
