"""Gradients for the Taylor criterion.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import torch

from enginery.errors import PassError
from enginery.passes.base import ModuleContext
from enginery.passes.module.outputs import as_tensors, device_of, run
from enginery.passes.module.training.losses import Loss, as_labels

BATCHES = 16
"""Batches over which gradients are summed."""


def gradients(module: torch.nn.Module, context: ModuleContext, loss: Loss) -> None:
    """Sum the gradients of the loss over the first `BATCHES` training batches into `module`, as it answers (eval mode).

    Raises:
        PassError: there is no training data.
    """
    if context.batches is None:
        raise PassError("criterion=taylor reads gradients and was given no data; name `data: training:` in the recipe")
    device = device_of(module)
    module.eval().zero_grad(set_to_none=True)
    for index, (feeds, labels) in enumerate(context.batches()):
        if index == BATCHES:
            break
        inputs = as_tensors(feeds, device)
        loss(inputs, run(module, inputs), as_labels(labels, device)).backward()


def taylor(parameter: torch.Tensor) -> torch.Tensor:
    """|weight x gradient| (Molchanov et al. 2019), element by element; zeros where no gradient arrived."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return (parameter.detach() * parameter.grad).abs()
