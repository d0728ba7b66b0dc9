"""Decides what is quantized, before anything is edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.graph.ir import all_graphs
from enginery.passes.quantize.options import NodeChoice, QuantizeOptions, choose
from enginery.passes.quantize.policy import OpRule, Policy
from enginery.passes.quantize.products import product_inputs, why_no_product
from enginery.passes.quantize.weights import groups, has_constant_weight, input_axis, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Tensors = Mapping[str, TensorStatistics]

FLOAT_SIDE: Final = "/FloatSide"
"""In the names of the products that `split-outliers` computes in float beside the integer ones."""


@dataclass
class Plan:
    """What gets Q/DQ pairs. Tensors and nodes are in graph order.

    Attributes:
        compute: The nodes with weights that become integer, with what applies to each.
        products: The products of two computed tensors that become integer.
        inputs: (node, index): inputs that get a pair seen by that node only.
        outputs: Tensors that get a pair seen by all their users, by name.
        symmetric: By tensor name, whether its zero point is 0.
        shared: Groups of tensor names that must have one scale.
        refusals: Compute nodes that stay in float, and why.
    """

    compute: list[tuple[gs.Node, NodeChoice]] = field(default_factory=list["tuple[gs.Node, NodeChoice]"])
    products: list[gs.Node] = field(default_factory=list["gs.Node"])
    inputs: list[tuple[gs.Node, int]] = field(default_factory=list["tuple[gs.Node, int]"])
    outputs: dict[str, gs.Tensor] = field(default_factory=dict[str, "gs.Tensor"])
    symmetric: dict[str, bool] = field(default_factory=dict[str, bool])
    shared: list[set[str]] = field(default_factory=list[set[str]])
    refusals: list[Refusal] = field(default_factory=list[Refusal])

    def integer(self) -> list[str]:
        """The names of all nodes that become integer."""
        return [names_of(node)[0] for node in (*(node for node, _ in self.compute), *self.products)]


def make_plan(graph: gs.Graph, policy: Policy, options: QuantizeOptions, tensors: Tensors) -> Plan:
    """Apply a policy, the overrides and what the statistics allow to the main graph."""
    plan = Plan()
    for node in graph.nodes:
        choice = choose(policy, node.op, options.for_node(*names_of(node)))
        if node.op not in policy.compute and not choice.quantize:
            continue
        reason = _why_not(graph, node, choice, policy, tensors)
        if reason is not None:
            plan.refusals.append(Refusal(names_of(node)[0], reason))
            continue
        if not has_constant_weight(node):
            plan.products.append(node)
            plan.inputs += product_inputs(graph, node)
            continue
        rule = policy.compute[node.op]
        plan.compute.append((node, choice))
        plan.inputs.append((node, rule.data))
        plan.symmetric[node.inputs[rule.data].name] = choice.symmetric
        if choice.output:
            _add_output(plan, node, choice.symmetric, policy, tensors)
    plan.refusals += (
        Refusal(names_of(node)[0], f"it stands in the body of a node ({inner.name}), and bodies stay in float")
        for inner in islice(all_graphs(graph), 1, None)
        for node in inner.nodes
        if node.op in policy.compute
    )
    for user, index in (place for node in plan.products for place in product_inputs(graph, node)):
        plan.symmetric[user.inputs[index].name] = True
    _extend_regions(graph, plan, policy, options, tensors)
    if policy.residual:
        _add_residuals(graph, plan, policy, tensors)
    if policy.concat:
        plan.shared += list(_around_concats(graph, plan))
    return plan


def names_of(node: gs.Node) -> tuple[str, ...]:
    """What overrides can call a node: its name (or operator and first output), its module's path, its weight's name."""
    first = node.name or f"{node.op} -> {node.outputs[0].name if node.outputs else 'nothing'}"
    weight = weight_of(node).name if len(node.inputs) > 1 and has_constant_weight(node) else ""
    return first, vars(node).get("scope", ""), weight


def absorbed_output(node: gs.Node, policy: Policy) -> gs.Tensor:
    """The node's output, behind the activation function that its integer kernel computes too."""
    tensor = node.outputs[0]
    if len(tensor.outputs) == 1 and tensor.outputs[0].op in policy.absorbed:
        return tensor.outputs[0].outputs[0]
    return tensor


def _why_not(graph: gs.Graph, node: gs.Node, choice: NodeChoice, policy: Policy, tensors: Tensors) -> str | None:
    """Why a node stays in float, or None when it can be quantized."""
    rule = policy.compute.get(node.op)
    if rule is None:
        return f"policy {policy.name!r} has no integer form of {node.op}; it has {', '.join(policy.compute)}"
    if not choice.quantize:
        return "kept in float: an option names it"
    if FLOAT_SIDE in node.name:
        return "computes outlier channels in float, beside the integer product"
    if not has_constant_weight(node):
        if node.op == "MatMul" and policy.products:
            return why_no_product(graph, node, tensors)
        return "its weight is computed, not constant"
    return _why_not_weight(node, policy) or _why_not_data(node, rule, tensors)


def _why_not_weight(node: gs.Node, policy: Policy) -> str | None:
    weight = weight_of(node)
    if not np.isfinite(values(weight)).all():
        return f"its weight {weight.name!r} holds NaN or infinity"
    if node.op == "Conv" and groups(node) > 1 and not policy.grouped:
        return f"policy {policy.name!r} leaves grouped convolutions in float"
    channels = weight.shape[input_axis(node)] * groups(node)
    if node.op == "Conv" and channels < policy.least_channels:
        return f"{channels} input channels; policy {policy.name!r} quantizes from {policy.least_channels} on"
    if node.op == "Gemm" and (node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0):
        return "alpha or beta is not 1"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "its data input is transposed"
    if node.op == "MatMul" and len(weight.shape) != 2:
        return f"its weight has rank {len(weight.shape)}; integer kernels take rank 2"
    return None


def _why_not_data(node: gs.Node, rule: OpRule, tensors: Tensors) -> str | None:
    tensor = node.inputs[rule.data]
    if tensor.name not in tensors:
        return f"no statistics of its input {tensor.name!r}"
    if not tensors[tensor.name].finite:
        return f"its input {tensor.name!r} was not finite during calibration"
    return None


def _known(tensor: gs.Tensor, tensors: Tensors) -> bool:
    return tensor.name in tensors and tensors[tensor.name].finite


def _add_output(plan: Plan, node: gs.Node, symmetric: bool, policy: Policy, tensors: Tensors) -> None:  # noqa: FBT001
    tensor = absorbed_output(node, policy)
    if _known(tensor, tensors):
        plan.outputs[tensor.name] = tensor
        plan.symmetric[tensor.name] = symmetric
    else:
        plan.refusals.append(Refusal(names_of(node)[0], f"output stays float: no statistics of {tensor.name!r}"))


def _extend_regions(graph: gs.Graph, plan: Plan, policy: Policy, options: QuantizeOptions, tensors: Tensors) -> None:
    """Carry integers on through every carrier all of whose inputs are integers already.

    For a residual Add one input may come from a layer in float, if a quantized layer reads that tensor too: it is at
    hand in integers, and a float Add would put a float side beside all blocks that follow.
    """
    read = {node.inputs[index].name for node, index in plan.inputs}
    for node in graph.nodes:
        if node.op not in policy.carriers or node.outputs[0].name in plan.outputs:
            continue
        if options.for_node(*names_of(node)).quantize is False:
            continue
        data = [node.inputs[0]] if node.op in policy.same_scale else list(node.inputs)
        beside = [index for index, tensor in enumerate(data) if tensor.name not in plan.outputs]
        if len(beside) == len(data) or any(node.op != "Add" or data[index].name not in read for index in beside):
            continue
        plan.inputs += [(node, index) for index in beside]
        symmetric = all(plan.symmetric[tensor.name] for tensor in data)
        _add_output(plan, node, symmetric, policy, tensors)
        if node.op in policy.same_scale and node.outputs[0].name in plan.outputs:
            plan.shared.append({node.inputs[0].name, node.outputs[0].name})


def _add_residuals(graph: gs.Graph, plan: Plan, policy: Policy, tensors: Tensors) -> None:
    """Quantize the skip input of each Add behind a quantized convolution."""
    integer = {id(node) for node, _ in plan.compute if node.op == "Conv"}
    depth = _conv_depth(graph)
    for node in graph.nodes:
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        behind = [_conv_behind(tensor) for tensor in node.inputs]
        if not any(conv is not None and id(conv) in integer for conv in behind):
            continue
        # The convolution of the longer branch takes the Add into its kernel; the other input is the skip.
        skip = min((0, 1), key=lambda index: (behind[index] is not None, depth.get(node.inputs[index].name, 0)))
        tensor = node.inputs[skip]
        if _known(tensor, tensors):
            plan.inputs.append((node, skip))
            plan.symmetric.setdefault(tensor.name, policy.symmetric)


def _conv_behind(tensor: gs.Tensor) -> gs.Node | None:
    """The convolution whose result, batch-normalized at most, `tensor` is, unless something else uses it too."""
    while tensor.inputs and len(tensor.outputs) == 1:
        node = tensor.inputs[0]
        if node.op == "Conv":
            return node
        if node.op != "BatchNormalization":
            return None
        tensor = node.inputs[0]
    return None


def _conv_depth(graph: gs.Graph) -> dict[str, int]:
    """The largest number of convolutions on a way from the inputs to each tensor."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        reached = max((depth.get(tensor.name, 0) for tensor in node.inputs), default=0) + (node.op == "Conv")
        depth.update((tensor.name, reached) for tensor in node.outputs)
    return depth


def _around_concats(graph: gs.Graph, plan: Plan) -> Iterator[set[str]]:
    quantized = {node.inputs[index].name for node, index in plan.inputs} | set(plan.outputs)
    for node in graph.nodes:
        if node.op == "Concat":
            around = {tensor.name for tensor in (*node.inputs, *node.outputs)}
            if len(around & quantized) > 1:
                yield around & quantized
