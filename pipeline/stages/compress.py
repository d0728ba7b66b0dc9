"""Compress: run the recipe's module passes over the original, before it is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.engines.base import Feeds, TensorSpec
from enginery.errors import SourceError
from enginery.passes.base import ModuleContext, ModulePass
from enginery.pipeline.comparison.reference import Batches
from enginery.pipeline.files import pretty_json
from enginery.pipeline.source.opened import LazyOriginal, discover_outputs, module_session

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from enginery.passes.module import ModulePassRecord
    from enginery.pipeline.comparison.validation import Score

RECORD = "compress.json"
MEASURED = "measured.json"


@dataclass(frozen=True)
class Compressed:
    """The module that the passes made, and what each of them did."""

    module: torch.nn.Module
    records: tuple[ModulePassRecord, ...]
    weights_digest: str

    def check(self, expected: str) -> None:
        """Raise SourceError when the passes gave other weights than the stored results were made from."""
        if self.weights_digest != expected:
            raise SourceError(
                f"The module passes gave other weights than before ({self.weights_digest[:12]}, stored "
                f"{expected[:12]}) though nothing they depend on changed. Fix the random seed of the training data."
            )


@dataclass(frozen=True)
class Compression:
    """What a recipe gives its module passes.

    Attributes:
        original: loads the model; ONNX sources have no module and are refused.
        example: one batch of inputs by forward-argument name.
        training: opens the data that passes train on.
        evaluation: opens the data that the metric is measured on.
        score: begins a measurement of the task metric.
        scored: the output that the metric reads (default: the first).
        higher_is_better: of that metric.
        inputs: the declared inputs.
        outputs: the declared outputs, or none.
        folder: of the recipe, for callables that passes name.
        workdir: keeps checkpoints, so that a killed training resumes.
        seed: fixes every random choice.
        progress: hears (steps done, steps in all or None).
    """

    original: LazyOriginal
    example: Feeds
    training: Batches | None
    evaluation: Batches | None
    score: Callable[[], Score] | None
    scored: str | None
    higher_is_better: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    folder: Path
    workdir: Path
    seed: int
    progress: Callable[[int, int | None], None]

    def open(self) -> tuple[torch.nn.Module, ModuleContext]:
        """A fresh copy of the original, and what passes may use besides it.

        Raises:
            SourceError: the source is ONNX.
        """
        module = self.original.fresh()
        if module is None:
            raise SourceError("`module_passes` work on an nn.Module; the source is an ONNX file. Use `graph_passes`.")
        names = self.outputs or tuple(
            TensorSpec(name, "float32", ()) for name in discover_outputs(module, self.example)
        )
        metric = None
        if self.score is not None and self.evaluation is not None:
            sign = 1.0 if self.higher_is_better else -1.0
            metric = _metric(self.score, self.evaluation, self.original, self.inputs, names, self.scored, sign)
        return module, ModuleContext(
            example=self.example,
            batches=_pairs(self.training) if self.training is not None else None,
            metric=metric,
            seed=self.seed,
            workdir=self.workdir,
            original=lambda: _required(self.original.fresh()),
            resolve=lambda text: _resolve(text, self.folder),
            progress=self.progress,
        )


Latency = Callable[["torch.nn.Module"], "float | None"]
"""Times the engine of a module against the original's."""


def compress(compression: Compression, passes: Sequence[ModulePass], latency: Latency | None = None) -> Compressed:
    """Run the passes, in order, over a fresh copy of the original; with `latency`, time the engine after each.

    Raises:
        SourceError: the source is ONNX.
        PassError: a pass failed or broke the module.
    """
    from enginery.passes.module import run_module_passes
    from enginery.pipeline.source.original import parameters_digest

    module, context = compression.open()
    result, records = run_module_passes(module, passes, context, latency=latency)
    return Compressed(result.eval(), records, parameters_digest(result))


def write_compressed(folder: Path, compressed: Compressed) -> None:
    """Write `compress.json`: what each pass did, and the digest of the weights; and apart from it the timings."""
    entries = [record.to_json() for record in compressed.records]
    seconds = {str(number): entry.pop("seconds") for number, entry in enumerate(entries)}
    latencies = {str(number): value for number, entry in enumerate(entries) if (value := entry.pop("latency"))}
    record: Mapping[str, Any] = {"weights_digest": compressed.weights_digest, "passes": entries}
    (folder / RECORD).write_text(pretty_json(dict(record)))
    (folder / MEASURED).write_text(pretty_json({"pass_seconds": seconds, "pass_latency": latencies}))


def _pairs(batches: Batches) -> Callable[[], Iterable[tuple[Feeds, npt.NDArray[Any] | None]]]:
    return lambda: ((batch.inputs, batch.labels) for batch in batches())


def _metric(
    score: Callable[[], Score],
    evaluation: Batches,
    original: LazyOriginal,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    scored: str | None,
    sign: float,
) -> Callable[[torch.nn.Module], float]:
    def measure(module: torch.nn.Module) -> float:
        session = module_session(module, inputs, outputs)
        reference = original.session(outputs)
        measurement = score()
        for batch in evaluation():
            labels = batch.labels
            if measurement.needs == "reference":
                labels = reference.run(batch.inputs)[scored or outputs[0].name]
            measurement.update(session.run(batch.inputs), labels)
        return sign * measurement.result()

    return measure


def _required(module: torch.nn.Module | None) -> torch.nn.Module:
    assert module is not None
    return module


def _resolve(text: str, folder: Path) -> Any:
    from enginery.pipeline.source.callables import Reference, import_callable

    return import_callable(Reference.parse(text, folder), SourceError)


def callables_of(passes: Iterable[ModulePass], folder: Path) -> dict[str, Any]:
    """The code behind the functions that passes name (a student, a loss), for the stage's key."""
    from enginery.pipeline.source.callables import Reference
    from enginery.pipeline.source.digest import code_facts

    named = [getattr(one, option, None) for one in passes for option in ("student", "loss")]
    return {text: code_facts(Reference.parse(text, folder)) for text in named if isinstance(text, str) and ":" in text}
