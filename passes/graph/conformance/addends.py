"""Constants behind 1-D convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule, Severity
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


class ConvAddend(Rule):
    """One number added to the result of a 1-D convolution, or subtracted from it.

    1. TensorRT-RTX 1.7 takes it for the bias of a float convolution and stops at an assertion; behind int8 ones it
       sometimes does.
    2. Fixed exactly: the number is written once for each channel.
    """

    name: ClassVar[str] = "conv-addend"
    severity: ClassVar[Severity] = "warning"
    versions: ClassVar[str] = "tensorrt-rtx 1.7"
    remedy: ClassVar[str] = "write the number once for each channel"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            found = _addend(node)
            if found is None:
                continue
            index, channels = found
            reason = "adds one number to the result of a 1-D Conv, at which the builder may stop"
            yield Match(label(node), reason, lambda n=node, i=index, c=channels: _spread(edits, n, i, c))


def _addend(node: gs.Node) -> tuple[int, int] | None:
    """Which input is the number, and how many channels the convolution has; None where this is no such node."""
    if node.op not in ("Add", "Sub") or node.domain or len(node.inputs) != 2:
        return None
    for index in (1, 0) if node.op == "Add" else (1,):
        constant, conv = node.inputs[index], producer(node.inputs[1 - index])
        if not is_known(constant) or peek(constant).size != 1 or conv is None or conv.op != "Conv":
            continue
        shape = conv.inputs[1].shape
        if shape is not None and len(shape) == 3 and isinstance(shape[0], int) and len(constant.shape) <= 3:
            return index, shape[0]
    return None


def _spread(edits: Edits, node: gs.Node, index: int, channels: int) -> None:
    given = node.inputs[index]
    assert is_known(given)
    value = peek(given)
    spread = np.full((1, channels, 1), value.reshape(()), value.dtype)
    inputs = list(node.inputs)
    inputs[index] = edits.constant(f"{given.name}/channels", spread)
    edits.replace(node.outputs[0], edits.node(node.op, inputs, at=node, like=node.outputs[0], takes_name=True))
