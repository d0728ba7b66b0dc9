"""Puts Q/DQ pairs into a graph according to a plan. Weights stay float in front of theirs until `fold`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.passes.calibration.observers import Observer
from enginery.passes.quantize.grid import Grid, activation_grid, weight_grid
from enginery.passes.quantize.plan import Plan, Tensors
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import output_axis, values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def place(graph: Any, plan: Plan, policy: Policy, observer: Observer, tensors: Tensors) -> int:
    """Insert the plan's Q/DQ pairs and return their number."""
    grids = _activation_grids(plan, policy, observer, tensors)
    pairs = Pairs(graph, dedicated=policy.dedicated)
    for node, choice in plan.compute:
        weight: Any = node.inputs[1]
        grid = weight_grid(values(weight), output_axis(node) if choice.per_channel else None)
        node.inputs[1] = pairs.insert(weight, grid, node)
    for tensor in plan.outputs.values():
        pairs.behind(tensor, grids[tensor.name])
    for node, index in plan.inputs:
        tensor = node.inputs[index]
        if tensor.name in grids:  # otherwise the pair behind its producer is there already
            node.inputs[index] = pairs.insert(tensor, grids[tensor.name], node)
    graph.toposort()
    return pairs.count


class Pairs:
    """Inserts Q/DQ pairs; equal requests share one pair unless `dedicated`."""

    def __init__(self, graph: gs.Graph, *, dedicated: bool) -> None:
        from enginery.passes.graph.edit import Names

        self.count = 0
        self._graph = graph
        self._names = Names(graph)
        self._dedicated = dedicated
        self._made: dict[Any, gs.Variable] = {}

    def insert(self, tensor: gs.Tensor, grid: Grid, user: gs.Node) -> gs.Variable:
        """The dequantized form of `tensor` for one user, which the caller connects."""
        key = (tensor.name, grid.axis, id(user) if self._dedicated else None)
        if key not in self._made:
            self._made[key] = self._pair(tensor, grid, self._variable(f"{tensor.name}/dequantized", tensor))
        return self._made[key]

    def behind(self, tensor: gs.Tensor, grid: Grid) -> None:
        """Let every user of `tensor` see its dequantized form. A graph output keeps its name."""
        if any(tensor is output for output in self._graph.outputs):
            inner = self._variable(f"{tensor.name}/float", tensor)
            producer = tensor.inputs[0]
            producer.outputs[producer.outputs.index(tensor)] = inner
            self._pair(inner, grid, tensor)
            return
        users = list(tensor.outputs)
        result = self._pair(tensor, grid, self._variable(f"{tensor.name}/dequantized", tensor))
        for user in users:
            for index, used in enumerate(user.inputs):
                if used is tensor:
                    user.inputs[index] = result

    def _pair(self, tensor: gs.Tensor, grid: Grid, result: gs.Tensor) -> Any:
        import onnx_graphsurgeon as gs

        dtype = np.dtype(grid.dtype)
        scale = gs.Constant(self._names.fresh(f"{tensor.name}/scale"), grid.scale.astype(tensor.dtype or np.float32))
        zero = gs.Constant(self._names.fresh(f"{tensor.name}/zero_point"), grid.zero_point.astype(dtype))
        attrs = {} if grid.axis is None else {"axis": grid.axis}
        middle = gs.Variable(self._names.fresh(f"{tensor.name}/quantized"), dtype, tensor.shape)
        for op, source, target in (("QuantizeLinear", tensor, middle), ("DequantizeLinear", middle, result)):
            name = self._names.fresh(f"{tensor.name}/{op}")
            self._graph.nodes.append(gs.Node(op, name, dict(attrs), [source, scale, zero], [target]))
        self.count += 1
        return result

    def _variable(self, name: str, like: gs.Tensor) -> gs.Variable:
        import onnx_graphsurgeon as gs

        return gs.Variable(self._names.fresh(name), like.dtype, like.shape)


def _activation_grids(plan: Plan, policy: Policy, observer: Observer, tensors: Tensors) -> dict[str, Grid]:
    names = dict.fromkeys((*plan.outputs, *(node.inputs[index].name for node, index in plan.inputs)))
    ranges = {name: observer.range(tensors[name]) for name in names}
    for group in _merged(plan.shared):
        known = [ranges[name] for name in group if name in ranges]
        shared = min(low for low, _ in known), max(high for _, high in known)
        ranges |= {name: shared for name in group if name in ranges}
    return {
        name: activation_grid(low, high, _dtype(policy, plan, name, low), symmetric=plan.symmetric[name])
        for name, (low, high) in ranges.items()
    }


def _dtype(policy: Policy, plan: Plan, name: str, low: float) -> str:
    """A symmetric grid is signed unless nothing is negative."""
    return "int8" if plan.symmetric[name] and low < 0 else policy.activation


def _merged(groups: list[set[str]]) -> list[set[str]]:
    """Groups that overlap, as one."""
    merged: list[set[str]] = []
    for group in groups:
        touching = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group] + [group.union(*touching)]
    return merged
