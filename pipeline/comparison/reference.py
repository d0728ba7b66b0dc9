"""The original's answers, computed once and read by every comparison, whatever the target.

Two folders: `shapes.json` with `cases/<name>.inputs.npz` and `.outputs.npz` for the shapes that are run;
`evaluation.json` with `<number>.npz`, the outputs on one batch of evaluation data each, so that nobody holds more than
a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from enginery.engines.base import Arrays, Feeds, TensorSpec
from enginery.pipeline.comparison.shapes import Case
from enginery.pipeline.files import pretty_json
from enginery.pipeline.npz import digest_arrays, read_npz, write_npz

if TYPE_CHECKING:
    import numpy.typing as npt

SHAPES = "shapes.json"
EVALUATION = "evaluation.json"


class Batch(Protocol):
    """One batch of data."""

    @property
    def inputs(self) -> Arrays: ...

    @property
    def labels(self) -> npt.NDArray[Any] | None: ...


Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class ShapesReference:
    """The original's outputs at every shape. `random`: the inputs are noise, since the recipe names no data."""

    folder: Path
    outputs: tuple[TensorSpec, ...]
    cases: tuple[Case, ...]
    random: bool

    @classmethod
    def open(cls, folder: Path) -> ShapesReference:
        index = json.loads((folder / SHAPES).read_bytes())
        return cls(
            folder,
            tuple(spec_from_json(item) for item in index["outputs"]),
            tuple(Case(item["name"], item["sizes"]) for item in index["cases"]),
            index["random"],
        )

    def case(self, name: str) -> Case:
        """The case of that name; sizes that coincide are run once, under the first name."""
        return next((case for case in self.cases if case.name == name), self.cases[0])

    def inputs_of(self, case: Case) -> Arrays:
        return read_npz(self.folder / "cases" / f"{case.name}.inputs.npz")

    def outputs_of(self, case: Case) -> Arrays:
        return read_npz(self.folder / "cases" / f"{case.name}.outputs.npz")


@dataclass(frozen=True)
class EvaluationReference:
    """The original's outputs on the evaluation data. `digests` tell each batch of it apart (`digest_batch`)."""

    folder: Path
    digests: tuple[str, ...]
    samples: int

    @classmethod
    def open(cls, folder: Path) -> EvaluationReference:
        index = json.loads((folder / EVALUATION).read_bytes())
        return cls(folder, tuple(index["digests"]), index["samples"])

    @property
    def batches(self) -> int:
        return len(self.digests)

    def outputs_of(self, number: int) -> Arrays:
        return read_npz(self.folder / f"{number:06}.npz")


def write_case(folder: Path, case: Case, inputs: Feeds, outputs: Feeds) -> None:
    (folder / "cases").mkdir(exist_ok=True)
    write_npz(folder / "cases" / f"{case.name}.inputs.npz", inputs)
    write_npz(folder / "cases" / f"{case.name}.outputs.npz", outputs)


def write_shapes(folder: Path, outputs: Sequence[TensorSpec], cases: Sequence[Case], *, random: bool) -> None:
    index = {
        "outputs": [spec_to_json(spec) for spec in outputs],
        "cases": [{"name": case.name, "sizes": dict(case.sizes)} for case in cases],
        "random": random,
    }
    (folder / SHAPES).write_text(pretty_json(index))


def write_batch(folder: Path, number: int, outputs: Feeds) -> None:
    write_npz(folder / f"{number:06}.npz", outputs)


def digest_batch(inputs: Feeds, labels: npt.NDArray[Any] | None) -> str:
    """Tell a batch apart: equal digests mean equal inputs and labels."""
    named = {f"input.{name}": array for name, array in inputs.items()}
    return digest_arrays(named if labels is None else {**named, "labels": labels})


def write_evaluation(folder: Path, digests: Sequence[str], samples: int) -> None:
    (folder / EVALUATION).write_text(pretty_json({"digests": list(digests), "samples": samples}))


def spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def spec_from_json(value: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(value["name"], value["dtype"], tuple(value["shape"]))
