"""Quantization: Q/DQ graphs from statistics, by one policy per target."""

from enginery.passes.quantize.options import NodeOverride, QuantizeOptions
from enginery.passes.quantize.policy import POLICIES, OpRule, Policy, get_policy
from enginery.passes.quantize.quantize import quantize_model

__all__ = ["POLICIES", "NodeOverride", "OpRule", "Policy", "QuantizeOptions", "get_policy", "quantize_model"]
