"""Give weights back the names that they had in the module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import PassResult
from enginery.passes.graph.edit import Names, module_path, scopes
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_LOST = re.compile(r"val_\d+|onnx::\w+_\d+|_inlfunc\w*|const\w*_\d+")
_LINEAR = {"MatMul": "weight", "Gemm": "weight", "Conv": "weight", "ConvTranspose": "weight"}


@dataclass(frozen=True)
class RestoreWeightNames:
    """Renames weights whose names the exporter lost (`val_57`) after the module that they belong to.

    1. The weight of a MatMul, Gemm or Conv, of rank 2 or more, with a generated name becomes `<module>.weight`. The
       module is the one that torch's exporter wrote at the node, or that the bias added to its result is named after.
    2. Where two weights would get one name, the second is numbered. Names that say something already are kept.

    Statistics, reports and overrides find a weight again by its name. No value changes.
    """

    name: ClassVar[str] = "restore-weight-names"
    tolerance: ClassVar[float] = 0.0

    def apply(self, graph: gs.Graph) -> PassResult:
        names = Names(graph)
        renamed: dict[str, str] = {}
        for scope in scopes(graph, functions=False):
            for node in scope.nodes:
                weight = node.inputs[1] if node.op in _LINEAR and not node.domain else None
                if weight is None or not is_known(weight) or not _LOST.fullmatch(weight.name) or len(weight.shape) < 2:
                    continue
                module = _module(node)
                if module:
                    old, weight.name = weight.name, names.fresh(f"{module}.weight")
                    renamed[old] = weight.name
        return PassResult(len(renamed), details={"renamed": renamed} if renamed else {})


def _module(node: gs.Node) -> str:
    for reader in node.outputs[0].outputs:
        if reader.op == "Add":
            for tensor in reader.inputs:
                if is_known(tensor) and tensor.name.endswith(".bias"):
                    return tensor.name.removesuffix(".bias")
    return module_path(node)
