"""Remedies: passes that make a quantized graph more accurate, one a file, and `choice`, which tries them all."""

from enginery.passes.quantize.remedies.choice import (
    DEFAULT,
    ENOUGH,
    Step,
    Treated,
    name_nodes,
    named_remedies,
    remedies,
    treat,
)

__all__ = ["DEFAULT", "ENOUGH", "Step", "Treated", "name_nodes", "named_remedies", "remedies", "treat"]
