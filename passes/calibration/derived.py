"""Histograms that follow from another tensor's: counting them again is most of what calibration would add to a run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from enginery.passes.calibration.histogram import Histogram

MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose output holds the values of their first input, in another order or shape."""


@dataclass(frozen=True)
class Derived:
    """The histogram of a tensor that holds the values of `source`, with zeros for the negative ones if `rectified`."""

    source: str
    rectified: bool

    def of(self, histogram: Histogram) -> Histogram:
        """From the histogram of `source`."""
        return histogram.rectified() if self.rectified else histogram


def derived_histograms(model: Any, tensors: Collection[str]) -> dict[str, Derived]:
    """Those of `tensors`, of an `onnx.ModelProto`, that follow from others of them, which are in no key themselves."""
    makers = {
        node.output[0]: node
        for node in model.graph.node
        if node.domain in ("", "ai.onnx") and (node.op_type in MOVES or node.op_type == "Relu")
    }
    found: dict[str, Derived] = {}
    for name in tensors:
        at, rectified = name, False
        while (maker := makers.get(at)) is not None:
            at, rectified = maker.input[0], rectified or maker.op_type == "Relu"
            if at in tensors:
                found[name] = Derived(at, rectified)
    return found
