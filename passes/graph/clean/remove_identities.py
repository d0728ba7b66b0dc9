"""Remove nodes that hand their input on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.shapes import dims_of, static_shape
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


Check = Callable[["gs.Node"], "gs.Tensor | None"]


@dataclass(frozen=True)
class RemoveIdentities(ScopedPass):
    """Removes nodes whose output is their first input.

    1. `Identity`.
    2. `Dropout` outside training whose mask nothing reads (a leftover of training).
    3. `Cast` to the dtype that the input has.
    4. `Transpose` that keeps the order; `Concat`, `Sum`, `Max`, `Min` or `Mean` of one input.
    5. `Reshape` or `Expand` to the static shape that the input has, `Pad` by nothing.
    6. Adding or subtracting 0, multiplying with or dividing by 1, where the constant has one element and no more
       dimensions than the other operand. A float `x + 0` turns -0 into 0, which compares equal.
    7. Kept where input and output are both graph inputs or outputs: each needs its own name. (Refused.)
    8. Kept in the hands of a node: an Identity of a sequence or an optional, whose copies runtimes need.
    """

    name: ClassVar[str] = "remove-identities"
    tolerance: ClassVar[float] = 0.0

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            shown = any(edits.is_output(each) for each in node.outputs[1:])  # case 2: a mask
            source = None if node.domain or shown else _passed_on(node)
            if source is None or getattr(source, "type", "tensor_type") != "tensor_type":  # case 8
                continue
            if edits.can_replace(node.outputs[0], source):
                edits.replace(node.outputs[0], source)
            else:
                yield Refusal(
                    label(node), f"not removed: output {node.outputs[0].name!r} needs a node of its own"
                )  # case 7


def _passed_on(node: gs.Node) -> gs.Tensor | None:
    """The tensor that the node hands on, or None when it computes something."""
    check = _CHECKS.get(node.op)
    return check(node) if check is not None and node.inputs and len(node.outputs) else None


def _identity(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[0]


def _dropout(node: gs.Node) -> gs.Tensor | None:
    mask_used = len(node.outputs) > 1 and not node.outputs[1].is_empty() and bool(node.outputs[1].outputs)
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and not training.is_empty() and not _all_equal(training, 0):
        return None
    return None if mask_used else node.inputs[0]


def _cast(node: gs.Node) -> gs.Tensor | None:
    source = node.inputs[0]
    if source.dtype is None:
        return None
    given = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(source))
    return source if given == node.attrs.get("to") else None


def _transpose(node: gs.Node) -> gs.Tensor | None:
    order = node.attrs.get("perm")
    return node.inputs[0] if order is not None and list(order) == sorted(order) else None


def _single(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _reshape(node: gs.Node) -> gs.Tensor | None:
    source, target = dims_of(node.inputs[0]), dims_of(node.outputs[0])
    if source is None or source != target:
        return None
    return node.inputs[0] if sum(not isinstance(dim, int) for dim in source) == 0 else None


def _pad(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[0] if len(node.inputs) > 1 and _all_equal(node.inputs[1], 0) else None


def _neutral(right: int, *, either_side: bool) -> Check:
    def check(node: gs.Node) -> gs.Tensor | None:
        sides = [(node.inputs[0], node.inputs[1])]
        if either_side:
            sides.append((node.inputs[1], node.inputs[0]))
        return next((kept for kept, constant in sides if _is_neutral(constant, kept, right)), None)

    return check


def _is_neutral(constant: gs.Tensor, kept: gs.Tensor, value: int) -> bool:
    if not is_known(constant) or is_known(kept):
        return False
    shape, rank = static_shape(constant), dims_of(kept)
    if shape is None or rank is None or int(np.prod(shape)) != 1 or len(shape) > len(rank):
        return False
    return _all_equal(constant, value)


def _all_equal(tensor: gs.Tensor, value: int) -> bool:
    return is_known(tensor) and bool(np.all(peek(tensor) == value))


_CHECKS: dict[str, Check] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
    "Reshape": _reshape,
    "Expand": _reshape,
    "Pad": _pad,
    "Add": _neutral(0, either_side=True),
    "Sub": _neutral(0, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
}
