"""Quantization: Q/DQ graphs from statistics, by one policy per target."""

from enginery.passes.quantize.needs import needed_tensors
from enginery.passes.quantize.options import NodeOverride, QuantizeOptions
from enginery.passes.quantize.policy import POLICIES, OpRule, Policy, get_policy
from enginery.passes.quantize.quantize import quantize_model
from enginery.passes.quantize.sensitivity import (
    MixedPrecision,
    Sensitivity,
    measure_sensitivity,
    search_mixed_precision,
)

__all__ = [
    "POLICIES",
    "MixedPrecision",
    "NodeOverride",
    "OpRule",
    "Policy",
    "QuantizeOptions",
    "Sensitivity",
    "get_policy",
    "measure_sensitivity",
    "needed_tensors",
    "quantize_model",
    "search_mixed_precision",
]
