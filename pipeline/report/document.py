"""The report as data: what `report.json` holds and what every rendering is made from.

A report stands beside a shipped bundle's manifest and, alone, where a build was refused. It carries the measured
timings, so it is one of the manifest's `measurements`; nothing here is an input of a later stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.bundle.manifest import DimRecord, GateVerdict, Record, Signature
from enginery.pipeline.files import pretty_json, write_durably

SCHEMA_VERSION = 1
FILE_NAME = "report.json"


class Errors(Record):
    """How far one output is from the original's: `comparison.OutputFigures`. A figure that does not apply is None."""

    name: str
    samples: int
    scale: float
    max_abs: float
    mean_abs: float
    relative: float | None = None
    cosine_mean: float | None = None
    cosine_min: float | None = None
    snr: float | None = None
    top1: float | None = None
    equal: float | None = None
    faults: tuple[str, ...] = ()


class CaseErrors(Record):
    """The errors at one shape, such as "max (batch=32, seq=256)"."""

    case: str
    outputs: tuple[Errors, ...]


class MetricFigures(Record):
    name: str
    original: float
    engine: float
    max_drop: float
    higher_is_better: bool = True

    @property
    def drop(self) -> float:
        """What the engine lost, in the metric's own unit; negative where it is better."""
        return (self.original - self.engine) * (1 if self.higher_is_better else -1)


class Latency(Record):
    """Milliseconds of one run. `subject` is `engine`, `float engine` or `original`; `case` names the shape.

    `low_ms` and `high_ms` are the 10th and 90th percentile of `runs` runs.
    """

    subject: str
    case: str
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


class Speedup(Record):
    """The baseline's latency over the engine's: median of paired ratios and its confidence interval."""

    baseline: str
    speedup: float
    low: float
    high: float
    confidence: float
    pairs: int


class Depth(Record):
    """What quantization cost at one point of the network, in order of depth: per-sample SNR against the float graph."""

    node: str
    snr: float
    tensor: str = ""
    """What the node reads, where it is one of those that lost most; calibration saw it from `low` to `high`."""

    low: float | None = None
    high: float | None = None
    drawing: str = ""
    """How its values are spread over [-reach, reach], as characters whose heights are logarithms of counts."""


class RemedyEffect(Record):
    """What one remedy did to the outputs on samples held out: SNR in dB, median and worst; None where not measured."""

    spec: str
    kept: bool
    changed: int
    before: float | None = None
    after: float | None = None
    worst_before: float | None = None
    worst_after: float | None = None
    reason: str = ""


class PassEffect(Record):
    """What one pass did in `stage`. Each refusal is `{node, reason}`."""

    stage: str
    spec: str
    changed: int
    refusals: tuple[dict[str, str], ...] = ()
    details: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = None
    nodes_before: int | None = None
    nodes_after: int | None = None


class CompressionStep(Record):
    """The model after one module pass; the first is the original, the last the engine that was built from the result.

    `latency` is that of the float engine after the step, for the last one that of the engine itself, as a share of the
    latency of the original's float engine. `bytes` are those of the weights, for the last one of the engine's files.
    A figure that was not measured is None.
    """

    step: str
    metric: float | None = None
    parameters: int | None = None
    nonzero: int | None = None
    bytes: int | None = None
    macs: int | None = None
    latency: float | None = None


class StageTime(Record):
    """`seconds` is what the stage took when it ran, in this build or an earlier one whose result was reused."""

    stage: str
    label: str = ""
    seconds: float
    reused: bool
    why: str = ""


def milliseconds(value: float) -> str:
    """Three digits, and all of them where there are more before the point."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


class ShapeTime(Record):
    """What a candidate of `auto` took at one shape. `weight` is how often the shape counts in the mean."""

    shape: str
    weight: int
    median_ms: float
    ratio: float


class Candidate(Record):
    """One engine that `--target auto` or `--precision auto` looked at.

    `outcome` is `chosen`, `slower`, `larger`, `refused`, `failed` or `not tried`, and `reason` says why where it is not
    a figure. `ratio` is the latency over that of the float32 engine, measured in turns: the geometric mean over
    `shapes`, of which the first is what `median_ms` was measured at.
    """

    target: str
    precision: str
    options: dict[str, Any] = Field(default_factory=dict)
    outcome: str
    reason: str = ""
    median_ms: float | None = None
    ratio: float | None = None
    bytes: int | None = None
    shapes: tuple[ShapeTime, ...] = ()


class Report(Record):
    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    description: str = ""
    target: str
    precision: str
    enginery: str
    shipped: bool
    complete_with: str | None = None
    """The command that completes deferred gates on a machine that can run the engine."""

    gates: tuple[GateVerdict, ...]
    allowed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided or left undone on the way, such as a fallback: nothing is decided silently."""

    inputs: tuple[Signature, ...] = ()
    outputs: tuple[Signature, ...] = ()
    dims: dict[str, DimRecord] = Field(default_factory=dict)
    cases: tuple[CaseErrors, ...] = ()
    evaluation: tuple[Errors, ...] = ()
    """On the recipe's evaluation data."""

    metric: MetricFigures | None = None
    latencies: tuple[Latency, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    """What the engine was chosen from, where it was chosen by measurement; the chosen one first."""

    sizes: dict[str, int] = Field(default_factory=dict)
    """Bytes by what is measured: `original`, `compressed` (after module passes), `graph`, `engine`."""

    kernels: dict[str, Any] = Field(default_factory=dict)
    """The engine's own account of its kernels (`Artifact.facts["kernels"]`): counts and heavy nodes by kind."""

    coverage: float | None = None
    """The share of the multiply-accumulates that quantization placed in integers, over the calibration data."""

    depth: tuple[Depth, ...] = ()
    remedies: tuple[RemedyEffect, ...] = ()
    compression: tuple[CompressionStep, ...] = ()
    passes: tuple[PassEffect, ...] = ()
    stages: tuple[StageTime, ...] = ()
    original: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    session: dict[str, Any] = Field(default_factory=dict)
    """What the engine said it runs on (`Session.describe`)."""


def write_document(report: Report, folder: Path) -> None:
    write_durably(folder / FILE_NAME, pretty_json(report.model_dump(mode="json")).encode())


def read_report(path: Path) -> Report:
    """Read the report of a bundle, or of a refused build; `path` is the folder or the file.

    Raises:
        UsageError: there is none.
        IntegrityError: the file is not a report, or was written by a newer Enginery.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path} holds no {FILE_NAME}. Name a bundle, or the folder of a refused build.")
    try:
        return Report.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{file} is not a report that this Enginery can read: {error}") from error
