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
    """One number added to the result of a 1-D convolution, or subtracted from it, also behind other such constants.

    1. TensorRT-RTX 1.7 takes it for the bias of a float convolution and stops at an assertion; behind int8 ones it
       sometimes does. A constant of shape [1, C, 1] it takes.
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
    index = _constant_place(node)
    if index is None:
        return None
    constant, maker = node.inputs[index], producer(node.inputs[1 - index])
    while maker is not None and (place := _constant_place(maker)) is not None:
        maker = producer(maker.inputs[1 - place])
    if maker is None or maker.op != "Conv" or not is_known(constant):
        return None
    if peek(constant).size != 1 or len(constant.shape) > 3:
        return None
    shape = maker.inputs[1].shape
    if shape is None or len(shape) != 3 or not isinstance(shape[0], int) or tuple(constant.shape) == (1, shape[0], 1):
        return None
    return index, shape[0]


def _constant_place(node: gs.Node) -> int | None:
    """Which input of a sum or difference is a constant; None for other nodes."""
    if node.op not in ("Add", "Sub") or node.domain or len(node.inputs) != 2:
        return None
    places = (1, 0) if node.op == "Add" else (1,)
    return next((place for place in places if is_known(node.inputs[place])), None)


def _spread(edits: Edits, node: gs.Node, index: int, channels: int) -> None:
    given = node.inputs[index]
    assert is_known(given)
    value = peek(given)
    spread = np.full((1, channels, 1), value.reshape(()), value.dtype)
    inputs = list(node.inputs)
    inputs[index] = edits.constant(f"{given.name}/channels", spread)
    edits.replace(node.outputs[0], edits.node(node.op, inputs, at=node, like=node.outputs[0], takes_name=True))
