"""Losses over (outputs by name, labels), and the sparsity penalties.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.errors import PassError, UsageError
from enginery.passes.module.outputs import Tensors
from enginery.passes.module.training.options import Training

if TYPE_CHECKING:
    import numpy.typing as npt

Loss = Callable[[Tensors, Tensors, torch.Tensor | None], torch.Tensor]
"""(inputs, outputs, labels) -> scalar."""


def first(outputs: Tensors) -> torch.Tensor:
    return next(iter(outputs.values()))


def task_loss(options: Training, resolve: Callable[[str], Any] | None) -> Loss:
    """The loss that `options.loss` names.

    Raises:
        UsageError: the name is unknown, or names a function where nothing can resolve it.
    """
    if options.loss in ("auto", "cross-entropy", "mse"):
        return lambda _inputs, outputs, labels: _built_in(options, outputs, labels)
    if ":" not in options.loss:
        raise UsageError(
            f"loss={options.loss!r} is unknown; expected auto, cross-entropy, mse, or file.py:function of your own"
        )
    if resolve is None:
        raise UsageError(f"loss={options.loss!r} names a function, and this run was given nothing to resolve it with")
    function = resolve(options.loss)
    return lambda _inputs, outputs, labels: function(outputs, labels)


def _built_in(options: Training, outputs: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
    if labels is None:
        raise PassError(
            "the training data has no labels, which this loss needs; give labels, or distil from the original"
        )
    output = first(outputs)
    integers = not labels.is_floating_point()
    if options.loss == "cross-entropy" or (options.loss == "auto" and integers):
        if not integers:
            raise PassError("loss=cross-entropy needs integer labels; the data has real ones")
        # Classes are the last dimension: logits of tokens are (batch, length, classes).
        logits = output.flatten(0, -2) if output.dim() > 1 else output
        return F.cross_entropy(logits.float(), labels.flatten().long(), label_smoothing=options.label_smoothing)
    if labels.dim() + 1 == output.dim() and output.shape[-1] == 1:
        output = output.squeeze(-1)
    if labels.shape != output.shape:
        raise PassError(
            f"labels of shape {tuple(labels.shape)} do not fit the first output's {tuple(output.shape)} for loss=mse"
        )
    return F.mse_loss(output.float(), labels.to(torch.float32))


def penalty(module: torch.nn.Module, options: Training) -> torch.Tensor:
    """`strength` times the chosen norm of every parameter with two or more dimensions."""
    weights = [p for p in module.parameters() if p.dim() > 1 and p.requires_grad]
    if options.sparsity == "l1":
        terms = [w.abs().sum() for w in weights]
    elif options.sparsity == "l2":
        terms = [w.square().sum() / 2 for w in weights]
    else:
        terms = [(w.flatten(1).square().sum(1) + 1e-12).sqrt().sum() * w[0].numel() ** 0.5 for w in weights]
    return options.strength * torch.stack(terms).sum()


def as_labels(labels: npt.NDArray[Any] | None, device: torch.device) -> torch.Tensor | None:
    return None if labels is None else torch.as_tensor(labels.copy(), device=device)
