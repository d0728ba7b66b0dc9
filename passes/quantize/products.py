"""Products of two computed tensors, such as attention's two: where their Q/DQ pairs go.

A pair stands as near as possible to what makes a tensor: behind the linear layer, before the reshape, the transpose and
the division by the square root of the head's size. Those then move bytes, and the rounding is part of the linear
layer's own kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.calibration.tensor_statistics import TensorStatistics

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_MOVES = ("Reshape", "Transpose")


def product_inputs(graph: gs.Graph, node: gs.Node) -> list[tuple[gs.Node, int]]:
    """The (node, index) in front of which the pairs of both inputs stand."""
    shown = {tensor.name for tensor in graph.outputs}
    return [_before_moves(node, index, shown) for index in (0, 1)]


def why_no_product(graph: gs.Graph, node: gs.Node, tensors: Mapping[str, TensorStatistics]) -> str | None:
    """Why a product stays in float, or None when it can be quantized."""
    for user, index in product_inputs(graph, node):
        name = user.inputs[index].name
        if name not in tensors:
            return f"no statistics of {name!r}, which it multiplies"
        if not tensors[name].finite:
            return f"{name!r}, which it multiplies, was not finite during calibration"
    return None


def _before_moves(node: gs.Node, index: int, shown: Collection[str]) -> tuple[gs.Node, int]:
    """Go up while values are only moved or scaled, and nobody else reads them."""
    tensor = node.inputs[index]
    while tensor.inputs and len(tensor.outputs) == 1 and tensor.name not in shown:
        maker = tensor.inputs[0]
        if maker.op not in _MOVES and not _scales(maker):
            break
        node, index, tensor = maker, 0, maker.inputs[0]
    return node, index


def _scales(node: gs.Node) -> bool:
    """Whether the node multiplies its first input by one constant number."""
    import onnx_graphsurgeon as gs

    return node.op == "Mul" and isinstance(node.inputs[1], gs.Constant) and int(np.prod(node.inputs[1].shape)) == 1
