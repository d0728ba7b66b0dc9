"""Store equal weights once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.edit import replace_uses
from enginery.passes.graph.weights import digest, is_sparse, nbytes, numpy_dtype


@dataclass(frozen=True)
class MergeDuplicateWeights:
    """Merges initializers of the main graph that hold the same dtype, shape and bytes.

    1. Equal initializers become the first of them. Weights are read only where size, dtype and shape agree.
    2. An initializer that is also an input is kept: the caller may override it. (Refused.)
    3. An initializer that is a graph output is kept, because the output needs its name.
    4. Initializers of subgraphs stay where they are.

    Passes that edit a weight afterwards must look at all of its consumers.
    """

    name: ClassVar[str] = "merge-duplicate-weights"
    tolerance: ClassVar[float] = 0.0

    def apply(self, graph: gs.Graph) -> PassResult:
        kept = {id(tensor) for tensor in graph.outputs}
        inputs = {id(tensor) for tensor in graph.inputs}
        refusals: list[Refusal] = []
        changed = 0
        for group in _alike(graph):
            first: dict[str, gs.Constant] = {}
            for constant in group:
                if id(constant) in inputs:  # case 2
                    refusals.append(Refusal(constant.name, "not merged: it is also an input, which the caller may set"))
                elif id(constant) not in kept:
                    twin = first.setdefault(digest(constant), constant)
                    if twin is not constant:
                        replace_uses(constant, twin)
                        changed += 1
        return PassResult(changed, tuple(refusals))


def _alike(graph: gs.Graph) -> list[list[gs.Constant]]:
    """Groups of at least two constants of the main graph that could be equal."""
    groups: dict[Hashable, list[gs.Constant]] = defaultdict(list)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and not is_sparse(tensor):
            groups[nbytes(tensor), numpy_dtype(tensor), tuple(tensor.shape)].append(tensor)
    return [group for group in groups.values() if len(group) > 1]
