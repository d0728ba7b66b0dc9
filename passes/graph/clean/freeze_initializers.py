"""Take initializers out of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from enginery.passes.base import PassResult


@dataclass(frozen=True)
class FreezeInitializers:
    """Makes initializers that are also inputs constants.

    1. Before IR version 4 every initializer had to be listed among the inputs; callers may still override it there,
       so nothing that depends on it can be folded. A deployed model is not meant to have its weights replaced at run
       time: each such input is removed, and the initializer becomes its value.
    2. Inputs without an initializer are kept.
    """

    name: ClassVar[str] = "freeze-initializers"
    tolerance: ClassVar[float] = 0.0

    def apply(self, graph: gs.Graph) -> PassResult:
        frozen = [tensor for tensor in graph.inputs if isinstance(tensor, gs.Constant)]
        for tensor in frozen:
            vars(tensor)["overridable"] = False
        if frozen:
            graph.inputs = [tensor for tensor in graph.inputs if not isinstance(tensor, gs.Constant)]
            # IR version 3 demands the inputs back.
            graph.ir_version = max(graph.ir_version or 0, 4)
        return PassResult(len(frozen), details={"frozen": [tensor.name for tensor in frozen]} if frozen else {})
