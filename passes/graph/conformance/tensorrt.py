"""The table for TensorRT and TensorRT-RTX, and the pass that applies its fixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.conformance.addends import ConvAddend
from enginery.passes.graph.conformance.axes import PerChannelActivation, WrongWeightAxis
from enginery.passes.graph.conformance.base import Rule
from enginery.passes.graph.conformance.constants import BareQuantizedConstant, IntegerBias, QuantizedOperand
from enginery.passes.graph.conformance.contrib import ContribOperator
from enginery.passes.graph.conformance.data_types import (
    DoublePrecision,
    MixedFloats,
    UnsupportedQuantizedType,
    UnsupportedType,
)
from enginery.passes.graph.conformance.dims import UncoveredDimension, UntestedOpset
from enginery.passes.graph.conformance.dynamic_ops import DynamicOperator
from enginery.passes.graph.conformance.four_bits import FourBitWeight
from enginery.passes.graph.conformance.integer_moves import IntegerMove
from enginery.passes.graph.conformance.integer_ops import IntegerOperator
from enginery.passes.graph.conformance.operators import FORMS, UnsupportedForm, UnsupportedOperator
from enginery.passes.graph.conformance.scales import BadScale
from enginery.passes.graph.conformance.zero_points import AsymmetricActivation, AsymmetricWeight

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits


def tensorrt_rules(ranges: Mapping[str, object] | None = None) -> tuple[Rule, ...]:
    """The rows, in the order in which their fixes are applied: operators first, since they bring Q/DQ pairs.

    `ranges` names the dimensions that profiles cover; None leaves that open.
    """
    return (
        ContribOperator(),
        IntegerOperator(),
        DynamicOperator(),
        IntegerMove(),
        IntegerBias(),
        UnsupportedQuantizedType(),
        BareQuantizedConstant(),
        QuantizedOperand(),
        BadScale(),
        FourBitWeight(),
        AsymmetricWeight(),
        AsymmetricActivation(),
        PerChannelActivation(),
        WrongWeightAxis(),
        ConvAddend(),
        MixedFloats(),
        UnsupportedOperator(),
        *(UnsupportedForm(form) for form in FORMS),
        UnsupportedType(),
        DoublePrecision(),
        UntestedOpset(),
        UncoveredDimension(ranges),
    )


@dataclass(frozen=True)
class ConformTensorRT(ScopedPass):
    """Rewrites what TensorRT refuses, or takes in silence for something else, into a form that it takes as meant.

    1. The rows of `tensorrt_rules` are applied in order; each row's class says what its fix does.
    2. What has no fix is a refusal that names the node and the reason.
    3. Exact, except where asymmetric integers become symmetric: uint8 with zero point 0 gets twice as coarse.
    """

    name: ClassVar[str] = "conform-tensorrt"
    tolerance: ClassVar[float] = 0.1
    """Of requantization: 1/127 of a tensor's range at each quantized tensor, so that a deep model needs room."""

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        refusals: list[Refusal] = []
        for rule in tensorrt_rules():
            matches = list(rule.matches(edits))
            repairs = [match.repair for match in matches if match.repair is not None]
            if repairs:
                # One row at a time: a row may match what another row just made.
                for repair in repairs:
                    repair()
                return ()
            refusals.extend(Refusal(match.node, match.reason) for match in matches)
        return refusals
