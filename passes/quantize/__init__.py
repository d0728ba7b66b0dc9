"""Quantization: Q/DQ graphs from statistics, by one policy per target."""

from enginery.passes.quantize.mixed import MixedPrecision, Trial, search_mixed_precision
from enginery.passes.quantize.needs import needed_tensors
from enginery.passes.quantize.options import NodeOverride, QuantizeOptions, pattern_of
from enginery.passes.quantize.policy import POLICIES, OpRule, Policy, get_policy
from enginery.passes.quantize.quantize import quantize_model
from enginery.passes.quantize.sensitivity import Sensitivity, measure_sensitivity

__all__ = [
    "POLICIES",
    "MixedPrecision",
    "NodeOverride",
    "OpRule",
    "Policy",
    "QuantizeOptions",
    "Sensitivity",
    "Trial",
    "get_policy",
    "measure_sensitivity",
    "needed_tensors",
    "pattern_of",
    "quantize_model",
    "search_mixed_precision",
]
