"""The kernels of a built engine, in the same words for every runtime: what the report shows of where int8 is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Kind = Literal["integer", "weight-only", "quantize", "float", "other"]
"""integer: computes on quantized tensors. weight-only: float activations, quantized weights. quantize: converts.
float: computes in floating point. other: shapes, masks, indices."""

KINDS: Final[tuple[Kind, ...]] = ("integer", "weight-only", "quantize", "float", "other")


@dataclass(frozen=True)
class Kernel:
    """One node of the graph that the runtime made.

    `heavy` marks multiply-accumulate work, where the time goes. `sources` names the ONNX nodes that it does, where the
    runtime says so; the node's own name otherwise.
    """

    node: str
    op: str
    kind: Kind
    heavy: bool
    sources: tuple[str, ...] = ()


def kernel_facts(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """What the report shows: counts by kind, heavy nodes by kind, and every node that is not `other`."""
    return {
        "counts": {kind: sum(kernel.kind == kind for kernel in kernels) for kind in KINDS},
        "heavy": {kind: sum(kernel.kind == kind and kernel.heavy for kernel in kernels) for kind in KINDS},
        "nodes": [{**asdict(kernel), "sources": list(kernel.sources)} for kernel in kernels if kernel.kind != "other"],
    }
