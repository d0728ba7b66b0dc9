"""The check that a pass which should change nothing changed nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginery.errors import PassError
from enginery.passes.base import Feeds

if TYPE_CHECKING:
    import torch

    from enginery.passes.module.outputs import Tensors

TOLERANCE = 1e-4
"""Largest error relative to an output's scale: another order of float32 sums, and nothing else."""


def agreement(module: torch.nn.Module, expected: Tensors, example: Feeds) -> float:
    """The largest error of the floating-point outputs on `example`, relative to each output's largest magnitude.

    Raises:
        PassError: the module no longer runs, or the error is above `TOLERANCE`.
    """
    from enginery.passes.module.outputs import infer

    try:
        found = infer(module, example)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise PassError(
            f"the module does not run with the new layers ({str(error).splitlines()[0]}); it may read a layer's weight "
            "instead of calling the layer: leave it out with layers="
        ) from error
    worst = 0.0
    for name, wanted in expected.items():
        if wanted.is_floating_point():
            error = float((found[name] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
            if not error <= TOLERANCE:
                raise PassError(
                    f"output {name} is off by {error:.3g} of its scale, more than {TOLERANCE:g}; the module does more "
                    "with a layer than to call it: leave it out with layers="
                )
            worst = max(worst, error)
    return worst
