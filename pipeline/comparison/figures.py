"""What validation and benchmark measure, as values that gates read and files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enginery.pipeline.comparison.outputs import OutputFigures


@dataclass(frozen=True)
class CaseFigures:
    """The figures of one shape. `case` reads "max (batch=32, seq=256)"."""

    case: str
    outputs: tuple[OutputFigures, ...]


@dataclass(frozen=True)
class MetricFigures:
    original: float
    engine: float

    def lost(self, *, higher_is_better: bool) -> float:
        """What the engine lost, in the metric's own unit; negative where it is better."""
        return (self.original - self.engine) * (1.0 if higher_is_better else -1.0)


@dataclass(frozen=True)
class SpeedFigures:
    """The speed-up over the float engine of the same target: median of paired ratios and its confidence interval."""

    speedup: float
    low: float
    high: float
    confidence: float
    pairs: int


@dataclass(frozen=True)
class Measured:
    """What was found out about one engine.

    `session` is what it says of itself: runtime, provider, threads; `kernels` what it says of its kernels once loaded.
    """

    faults: tuple[str, ...] = ()
    cases: tuple[CaseFigures, ...] = ()
    evaluation: tuple[OutputFigures, ...] = ()
    metric: MetricFigures | None = None
    session: Mapping[str, Any] = field(default_factory=dict[str, Any])
    speed: SpeedFigures | None = None
    kernels: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Everything but the speed, which is a timing."""
        return {
            "faults": list(self.faults),
            "cases": [
                {"case": case.case, "outputs": [output.to_json() for output in case.outputs]} for case in self.cases
            ],
            "evaluation": [output.to_json() for output in self.evaluation],
            "metric": None if self.metric is None else vars(self.metric),
            "session": dict(self.session),
            "kernels": dict(self.kernels),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], speed: SpeedFigures | None = None) -> Measured:
        return cls(
            faults=tuple(value["faults"]),
            cases=tuple(
                CaseFigures(case["case"], tuple(OutputFigures.from_json(output) for output in case["outputs"]))
                for case in value["cases"]
            ),
            evaluation=tuple(OutputFigures.from_json(output) for output in value["evaluation"]),
            metric=None if value["metric"] is None else MetricFigures(**value["metric"]),
            session=value["session"],
            speed=speed,
            kernels=value["kernels"],
        )
