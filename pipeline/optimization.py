"""`enginery optimize` on any ONNX file: the passes of a target, or those that are named, with their proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import UsageError

if TYPE_CHECKING:
    from enginery.passes.base import Feeds, GraphPass
    from enginery.passes.sequence import PassRecord, Prove


@dataclass(frozen=True)
class Optimized:
    """What was done to a file.

    `prove` is how it was proved, `shapes` on how many feeds; the target's engine opens such a graph with `options`.
    """

    records: tuple[PassRecord, ...]
    prove: Prove
    shapes: int
    options: dict[str, Any]

    @property
    def largest_error(self) -> float:
        """The largest error of any output by any pass, relative to the output's largest value."""
        return max((each.relative for record in self.records for each in record.proof), default=0.0)

    @property
    def opinion(self) -> str:
        """What ONNX's reference evaluator said of the result; empty where nothing was proved."""
        return str(self.records[-1].result.details.get("reference_evaluator", ""))

    def to_json(self) -> dict[str, Any]:
        return {
            "prove": self.prove,
            "shapes": self.shapes,
            "session_options": self.options,
            "passes": [record.to_json() for record in self.records],
        }


def optimize_file(
    model: Path,
    output: Path,
    *,
    target: str,
    passes: str | None = None,
    prove: Prove | None = None,
    inputs: Sequence[Path] = (),
) -> Optimized:
    """Apply passes to an ONNX file and write the result to `output`, which must not exist. Weights are streamed.

    Args:
        model: any ONNX file; it is checked before a runtime sees it.
        output: weights of more than 64 MiB go into `<output>.data` beside it.
        target: whose default passes run, where `passes` names none.
        passes: a comma-separated list, such as `fold-constants,fuse-attention{min_heads=2}`; `default` in it stands
            for the target's own, and `file.py:Class` for a pass of one's own.
        prove: `off`, `end` or `each`; None chooses by the size of the weights.
        inputs: `.npz` files with one batch each, for the proof. None: seeded noise at several sizes.

    Raises:
        UsageError: a path, a pass or the target is wrong, or nothing can be proved on random inputs.
        InvalidModelError: the file is hostile or no valid ONNX model.
        PassError: a pass failed or changed the numbers. Nothing is written.
    """
    from enginery.engines.onnx_file.check import check_model
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.sequence import default_prove, run_graph_passes

    engine_options, chosen = _chosen(target, passes)
    _check_paths(model, output, inputs)
    check_model(model)
    prove = prove or default_prove(model)
    feeds = _feeds(model, inputs) if prove != "off" else []
    output.parent.mkdir(parents=True, exist_ok=True)
    records = run_graph_passes(model, output, chosen, open_model=open_model, feeds=feeds, prove=prove)
    return Optimized(records, prove, len(feeds), engine_options)


def _chosen(target: str, passes: str | None) -> tuple[dict[str, Any], tuple[GraphPass, ...]]:
    from enginery.engines import get_engine
    from enginery.passes.spec import split_passes
    from enginery.pipeline.source.passes import DEFAULT, read_graph_passes

    engine = get_engine(target)
    chosen = read_graph_passes(split_passes(DEFAULT if passes is None else passes), engine.target, Path.cwd())
    if engine.target == "onnxruntime-cpu" and any(getattr(each, "to", None) == "bfloat16" for each in chosen):
        raise UsageError(
            "onnxruntime-cpu has no kernels for bfloat16. Name the --target that the model is for, or choose float16."
        )
    return {key: list(value) for key, value in getattr(engine, "defaults", {}).items()}, chosen


def _check_paths(model: Path, output: Path, inputs: Sequence[Path]) -> None:
    for path in (model, *inputs):
        if not path.is_file():
            raise UsageError(f"There is no file {path}.")
    for path in (output, output.with_name(output.name + ".data")):
        if path.exists():
            raise UsageError(f"{path} exists. Name a new file with --output, or remove it.")


def _feeds(model: Path, inputs: Sequence[Path]) -> list[Feeds]:
    from enginery.engines.onnxruntime import open_model
    from enginery.errors import IntegrityError
    from enginery.pipeline.npz import read_npz
    from enginery.pipeline.onnx_feeds import feeds_that_run

    if not inputs:
        return feeds_that_run(model, open_model)
    try:
        return [read_npz(path) for path in inputs]
    except IntegrityError as error:
        raise UsageError(str(error)) from error
