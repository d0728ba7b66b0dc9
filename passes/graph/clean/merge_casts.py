"""Chains of casts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import numpy_dtype

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class MergeCasts(ScopedPass):
    """Replaces two casts in a row by the second where the first loses nothing.

    1. `Cast(Cast(x, wide), to)` becomes `Cast(x, to)` when `wide` holds every value of x's dtype and is of its kind
       (integer to wider integer, float to wider float), or x is bool.
    2. A narrowing first cast rounds or wraps, and is kept. (Refused.)
    """

    name: ClassVar[str] = "merge-casts"
    tolerance: ClassVar[float] = 0.0

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            first = producer(node.inputs[0]) if node.op == "Cast" else None
            if first is None or first.op != "Cast" or first.inputs[0].dtype is None:
                continue
            given = numpy_dtype(first.inputs[0])
            middle = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(first.attrs["to"]))
            if not _lossless(given, middle):
                yield Refusal(label(node), f"not merged: {label(first)} narrows {given} to {middle}")
                continue
            merged = edits.node("Cast", [first.inputs[0]], at=node, like=node.outputs[0], attrs=node.attrs)
            edits.replace(node.outputs[0], merged)


def _lossless(given: np.dtype[np.generic], to: np.dtype[np.generic]) -> bool:
    if given.kind == "b":
        return True
    same_kind = given.kind == to.kind or (given.kind == "u" and to.kind == "i")
    return same_kind and given.kind in "iuf" and np.can_cast(given, to, "safe")
