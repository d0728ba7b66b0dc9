"""Does an engine answer here as it did where it was built? Its golden inputs are run, its outputs compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from enginery.engines.base import Arrays
from enginery.errors import EngineError
from enginery.pipeline.bundle.manifest import Manifest
from enginery.pipeline.comparison import Comparer, Comparison, OutputFigures
from enginery.pipeline.npz import read_npz

FLOAT_TOLERANCE: Final = 1e-4
"""Two processors add up in different orders."""

HALF_TOLERANCE: Final = 2e-2
COSINE_FLOOR: Final = 0.999
"""A quantized engine may round a value to its neighbour on another processor; its answers stay this close."""


def check_golden(
    bundle: Path, manifest: Manifest, run: Callable[[Arrays], Arrays], *, what: str = "the engine"
) -> tuple[OutputFigures, ...]:
    """Run every golden case and compare its outputs with the recorded ones.

    Args:
        bundle: the verified bundle.
        manifest: of the bundle.
        run: runs the engine: inputs by name to outputs by name.
        what: names in a message what was run.

    Raises:
        EngineError: the answers differ by more than another processor explains, or none were recorded.
    """
    cases = [case for case in manifest.golden if case.outputs is not None]
    if not cases:
        raise EngineError(f"{bundle} holds no golden outputs, so nothing shows that its engine answers right here.")
    comparer = Comparer(tuple(tensor.spec for tensor in manifest.outputs))
    for case in cases:
        feeds = read_npz(bundle / case.inputs)
        comparer.add(read_npz(bundle / str(case.outputs)), run(feeds), feeds)
    figures = comparer.figures()
    for output in figures:
        if not _agrees(output, manifest.precision):
            raise EngineError(
                f"{bundle}: {what} does not answer here as the engine did where it was built. Output {output.name}: "
                f"{_words(output)}. Do not use it here; `enginery validate` with the recipe tells more."
            )
    return figures


def _agrees(output: OutputFigures, precision: str) -> bool:
    if output.equal is not None or precision == "fp32":
        return bool(Comparison((output,), FLOAT_TOLERANCE))
    if precision in {"fp16", "bf16"}:
        return bool(Comparison((output,), HALF_TOLERANCE))
    return not output.faults and output.cosine_min is not None and output.cosine_min >= COSINE_FLOOR


def _words(output: OutputFigures) -> str:
    if output.faults:
        return "; ".join(output.faults)
    if output.equal is not None:
        return f"{output.equal:.2%} of its elements are equal"
    cosine = "" if output.cosine_min is None else f", minimum cosine {output.cosine_min:.6f}"
    return f"largest error {output.max_abs:.3g} on a scale of {output.scale:.3g}{cosine}"
