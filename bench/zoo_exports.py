"""Exports one architecture of the zoo as a build does: the original's answers, the export, and the check of it.

The folder `exports/NAME` under the results then holds `model/model.onnx`, and the original's inputs and answers at
every shape. What the check refuses keeps the reason that a build would give.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from each import Row, Study, first_line

if TYPE_CHECKING:
    import torch

RANGES: Final = {"batch": (1, 2, 4), "seq": (3, 11, 17), "past": (1, 5, 9)}
"""Minimum, optimum and maximum of every dynamic dimension, by name."""

SMALLEST: Final = 1e-3
"""Of an output whose scale is below this, an error proves nothing."""


@dataclass(frozen=True)
class Data:
    """One batch, as the stages of a build take it."""

    inputs: dict[str, Any]
    labels: None = None


def examine(name: str, results: Path) -> Row:
    import torch
    from zoo_models import MODELS

    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = MODELS[name]()
    target = results / "exports" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as text:
        row = exported(example, Path(text) / "export")
        shutil.rmtree(target, ignore_errors=True)
        if row["state"] == "exported":
            (Path(text) / "export").rename(target)
    return row | ({"prepared": example.preparation} if example.preparation else {})


def exported(example: Any, folder: Path) -> Row:
    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.pipeline.comparison.reference import ShapesReference
    from enginery.pipeline.source.opened import discover_outputs, module_session
    from enginery.pipeline.stages.export import check_export, export_module
    from enginery.pipeline.stages.reference import reference_shapes

    folder.mkdir()
    inputs, dims = specs_of(example)
    feeds = {name: tensor.numpy() for name, tensor in example.inputs.items()}
    module = named(example.module, list(inputs))
    try:
        names = discover_outputs(module, feeds)
        reference_shapes(
            folder, run=module_session(module, tuple(inputs.values()), plain(names)).run, inputs=list(inputs.values()),
            dims=dims, shapes=(), declared=(), batches=lambda: [Data(feeds)], seed=0,
            progress=lambda _done, _all: None,
        )  # fmt: skip
        reference = ShapesReference.open(folder)
        scale = smallest_scale(reference)
        if not scale > SMALLEST:
            return {"state": "no scale", "reason": f"the largest value of an output is {scale:g}: it proves nothing"}
        export_module(
            folder, module=module, example=feeds, inputs=list(inputs.values()), outputs=reference.outputs, dims=dims,
            opset=None,
        )  # fmt: skip
    except EngineryError as error:
        return {"state": "not exported", "reason": first_line(error)}
    try:
        check_export(folder, reference, inputs=list(inputs.values()), valid={}, open_model=open_model)
    except EngineryError as error:
        return {"state": "export wrong", "reason": first_line(error)}
    return {"state": "exported", "shapes": len(reference.cases)}


def specs_of(example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs as a recipe declares them, by name, and the ranges of their dimensions."""
    from enginery.engines import DimRange, TensorSpec

    found = {
        name: TensorSpec(
            name,
            str(tensor.dtype).removeprefix("torch."),
            tuple(example.dims.get(name, {}).get(axis, size) for axis, size in enumerate(tensor.shape)),
        )
        for name, tensor in example.inputs.items()
    }
    used = {dim for spec in found.values() for dim in spec.shape if isinstance(dim, str)}
    return found, {dim: DimRange(*RANGES[dim]) for dim in sorted(used)}


def plain(names: tuple[str, ...]) -> tuple[Any, ...]:
    from enginery.engines import TensorSpec

    return tuple(TensorSpec(name, "float32", ()) for name in names)


def smallest_scale(reference: Any) -> float:
    """The smallest, over outputs and shapes, of the largest absolute value."""
    import numpy as np

    return min(
        float(np.abs(array).max(initial=0.0))
        for case in reference.cases
        for array in reference.outputs_of(case).values()
        if array.dtype.kind == "f"
    )


def named(module: Any, names: list[str]) -> Any:
    """A module that takes its inputs by name and returns its tensors as a flat tuple."""
    from exports import Flat

    class Named(Flat):
        def forward(self, *args: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return super().forward(*args, *(inputs[name] for name in names[len(args) :]))

    # The exporter reads the names of the inputs from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    Named.forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *names)])
    return Named(module, names).eval()


EXPORTS: Final = Study("exports", examine)
