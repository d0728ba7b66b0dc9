"""The loss of a module that learns from the answers of another one.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. Only loaded by passes that are being applied: it
imports torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.errors import PassError
from enginery.passes.module.outputs import Tensors, run
from enginery.passes.module.training.losses import Loss, first


def taught_loss(alpha: float, temperature: float, soft: str, task: Loss, teacher: torch.nn.Module) -> Loss:
    """`alpha` times the divergence from the teacher's answers, plus the rest of the task's loss on the labels."""

    def loss(inputs: Tensors, outputs: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            expected = run(teacher, inputs)
        total = alpha * soft_loss(soft, temperature, expected, outputs)
        return total if alpha == 1 else total + (1 - alpha) * task(inputs, outputs, labels)

    return loss


def soft_loss(kind: str, temperature: float, teacher: Tensors, student: Tensors) -> torch.Tensor:
    """`kl` over the last dimension of the first output, `mse` over all outputs, or 1 - `cosine` of the first ones."""
    if kind == "mse":
        errors = [F.mse_loss(student[n].float(), t.float()) for n, t in teacher.items() if t.is_floating_point()]
        return torch.stack(errors).mean()
    wanted, given = first(teacher).float(), first(student).float()
    if wanted.shape != given.shape:
        raise PassError(f"the student's output is {tuple(given.shape)}, the teacher's {tuple(wanted.shape)}")
    if kind == "cosine":
        return (1 - F.cosine_similarity(given, wanted, dim=-1)).mean()
    log_given = F.log_softmax(given / temperature, dim=-1).flatten(0, -2)
    log_wanted = F.log_softmax(wanted / temperature, dim=-1).flatten(0, -2)
    return F.kl_div(log_given, log_wanted, reduction="batchmean", log_target=True) * temperature**2
