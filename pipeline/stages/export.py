"""Export: the original becomes ONNX, and the ONNX is run at every shape before anyone trusts it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from enginery.engines.base import Arrays, DimRange, Feeds, TensorSpec
from enginery.errors import EngineError, StageError
from enginery.passes.base import OpenModel
from enginery.pipeline.comparison import NEAR_ZERO, compare
from enginery.pipeline.comparison.reference import ShapesReference
from enginery.pipeline.export_failure import explain_failure, without_chatter
from enginery.pipeline.files import pretty_json

if TYPE_CHECKING:
    import torch

OPSET: Final = 20
"""Default opset. 23 decomposes less but its RotaryEmbedding is wrong for batches (4 of 4 models tried); 20 was right at
every shape for 101 of 109 architectures."""

TOLERANCE: Final = 1e-4
"""Largest error of an export relative to the output's scale. Exporting changes the order of sums and nothing else."""

EXTERNAL_BYTES: Final = 1 << 30
"""Weights beyond this go into a file of their own; protobuf ends at 2 GiB."""

TRACED: Final = "odd"
"""The case whose inputs are traced: sizes that are neither 0 nor 1, nor equal by chance."""

FILE: Final = "model/model.onnx"
_BAKED: Final = (
    "A dimension was baked in by tracing: look for Python code in `forward` that depends on a shape, or make the "
    "dimension fixed in the recipe."
)
_TRANSLATED: Final = (
    "These are the sizes that were traced, so torch.onnx translated something wrongly: try another `opset` in the "
    "recipe, or export to ONNX yourself and use `source: {onnx: …}`."
)
_NO_NUMBER: Final = (
    "Look at the weights and the data of this shape: where the original answers so, too, nothing can be compared. Mask "
    "positions that mean nothing with `valid`, or narrow `dims`."
)
_HALVES: Final = (
    "The model computes in half precision, and no two runtimes round alike there: return `module.float()` from the "
    "factory. The recipe's `precision` makes half-precision engines."
)
_KEPT_METADATA: Final = frozenset({"pkg.torch.onnx.name_scopes"})


def export_module(
    folder: Path,
    *,
    module: torch.nn.Module,
    example: Feeds,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    opset: int | None,
) -> None:
    """Export an `nn.Module` to `folder/model/model.onnx` with torch.onnx (dynamo).

    Args:
        folder: empty.
        module: in evaluation mode.
        example: one set of inputs whose dynamic sizes are neither 0 nor 1 where the range allows.
        inputs: names, dtypes and shapes as declared; the file's inputs get these names and dimensions.
        outputs: the file's outputs get these names.
        dims: the declared ranges.
        opset: of the file; None means `OPSET`.

    Raises:
        StageError: torch cannot export the module; the message says what it stumbled over and what helps.
    """
    import torch

    chosen = opset or OPSET
    tensors = {spec.name: torch.from_numpy(example[spec.name].copy()) for spec in inputs}
    with without_chatter(), _without_gradients(module):
        try:
            program = torch.onnx.export(
                module.eval(),
                (),
                kwargs=tensors,
                dynamic_shapes=_dynamic_shapes(inputs, dims),
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                opset_version=chosen,
                dynamo=True,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise StageError(explain_failure(error, module)) from error
    assert program is not None
    _clean(program.model)
    _free_names(program.model)
    _name_dims(program.model, inputs, outputs)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    (folder / FILE).parent.mkdir()
    program.save(str(folder / FILE), external_data=size > EXTERNAL_BYTES)
    for path in (folder / FILE).parent.iterdir():
        # onnx writes external data readable by the owner alone.
        path.chmod(0o644)
    _write_record(folder, {"exporter": "torch.onnx dynamo", "opset": chosen})


def export_onnx(folder: Path, *, model: Path) -> None:
    """Copy an ONNX source, with its external data, after checking that it is safe to open.

    Raises:
        InvalidModelError: the file is hostile or damaged.
    """
    from enginery.engines.onnxruntime import copy_model

    (folder / FILE).parent.mkdir()
    copy_model(model, folder / FILE)
    _write_record(folder, {"exporter": "none: the source is ONNX", "opset": None})


def check_export(
    folder: Path,
    reference: ShapesReference,
    *,
    inputs: Sequence[TensorSpec],
    valid: Mapping[str, str],
    open_model: OpenModel,
) -> None:
    """Run the file exported into `folder` at every shape, compare it with the original and write `check.json`.

    Raises:
        StageError: the file fails or differs at a shape: a dimension was baked in by tracing.
    """
    run = open_model(folder / FILE)
    report: list[dict[str, Any]] = []
    traced = reference.case(TRACED)
    for case in sorted(reference.cases, key=lambda case: case != traced):  # what is off there was not baked in
        feeds = reference.inputs_of(case)
        actual = _run(run, feeds, str(case))
        found = compare(
            reference.outputs_of(case), actual, reference.outputs, TOLERANCE,
            inputs=feeds, valid=valid, input_specs=inputs,
        )  # fmt: skip
        # An output near zero shows nothing either way; the gates refuse it with words of their own.
        broken = [o for o in found.outputs if not found.holds(o) and (o.faults or o.scale >= NEAR_ZERO)]
        if broken:
            output = broken[0]
            text = output.faults[0] if output.faults else f"is off by {output.relative or 1.0:.3g} of its scale"
            finite = all(np.isfinite(array).all() for array in actual.values() if array.dtype.kind == "f")
            remedy = _NO_NUMBER if not finite else _why_off(folder / FILE) if case == traced else _BAKED
            off = f"export: at {case} the exported model's output {output.name!r} {text} (bound {TOLERANCE:g})."
            raise StageError(f"{off} {remedy}")
        report.append({"case": case.name, "sizes": dict(case.sizes), "relative": found.smallest_tolerance})
    (folder / "check.json").write_text(pretty_json(report))


def _why_off(model: Path) -> str:
    """Why an export may be off at the very sizes that were traced."""
    import onnx

    weights = onnx.load(model, load_external_data=False).graph.initializer
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return _HALVES if any(weight.data_type in halves for weight in weights) else _TRANSLATED


def _run(run: Callable[[Feeds], Arrays], feeds: Feeds, case: str) -> Arrays:
    try:
        return run(feeds)
    except EngineError as error:
        raise StageError(f"export: the exported model fails at {case}: {str(error).strip()} {_BAKED}") from error


def _dynamic_shapes(inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> dict[str, Any]:
    import torch

    made = {
        name: torch.export.Dim(name if name.isidentifier() else f"dim_{index}", min=dim.min, max=dim.max)
        for index, (name, dim) in enumerate(sorted(dims.items()))
        if dim.min < dim.max
    }
    return {
        spec.name: {axis: made[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in made}
        for spec in inputs
    }


@contextlib.contextmanager
def _without_gradients(module: torch.nn.Module) -> Generator[None]:
    """Where gradients are wanted, attention is traced in a form that fails on transposed heads (T5, BEiT, MaxViT)."""
    import torch

    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(requires_grad=False)
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad = True


def _clean(model: Any) -> None:
    """Drop what the exporter notes about the machine that it ran on: stack traces, file names."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph.all_nodes():
            for key in [key for key in node.metadata_props if key not in _KEPT_METADATA]:
                del node.metadata_props[key]
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.metadata_props.clear()
    model.metadata_props.clear()


def _free_names(model: Any) -> None:
    """Rename inner values that are called like an input or output: torch names them after operators (`embedding`)."""
    public = [*model.graph.inputs, *model.graph.outputs]
    taken = {value.name for value in public}
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    values += list(model.graph.initializers.values())
    used = taken | {value.name for value in values}
    for value in values:
        if value.name in taken and not any(value is one for one in public):
            number = next(n for n in range(1, len(used) + 2) if f"{value.name}_{n}" not in used)
            value.name = f"{value.name}_{number}"
            used.add(value.name)


def _name_dims(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give the file's inputs and outputs the declared names of dimensions; the exporter invents some."""
    import onnx_ir as ir

    for values, specs in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        by_name = {spec.name: spec for spec in specs}
        for value in values:
            if value.name in by_name:
                value.shape = ir.Shape(list(by_name[value.name].shape))


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    (folder / "export.json").write_text(pretty_json(dict(record)))
