"""`recover`: train a compressed module until it answers well again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from enginery.errors import UsageError
from enginery.passes.base import ModuleContext, PassResult
from enginery.passes.module.training import Training

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Recover(Training):
    """Trains every parameter on the recipe's training data.

    1. Masks and codebooks of earlier passes are kept: a pruned weight stays zero, a shared one stays shared.
    2. With a metric in the recipe, the best epoch's weights are kept; the state before training counts as epoch 0,
       so the pass never ends below where it began.
    3. A killed training resumes from its last checkpoint and ends as if it had not been killed; one that ended is
       remembered beside the checkpoints.
    4. `quantize=int8` trains for quantization: linear and convolution layers compute with inputs and weights rounded to
       `bits`, and the metric is measured so. The weights stay float; `precision: int8` of the recipe then emits the
       same Q/DQ pairs as without it, from weights that rounding hurts less.
    5. Without training data, without labels (unless the loss needs none), or with a loss that is not finite, it raises.
    """

    name: ClassVar[str] = "recover"

    quantize: Literal["none", "int8"] = "none"
    bits: int = 8

    def __post_init__(self) -> None:
        self.check(self.name)
        if not 2 <= self.bits <= 8:
            raise UsageError(f"{self.name}: bits={self.bits} is out of range; expected 2 to 8")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.training.fake_quantize import fake_quantized
        from enginery.passes.module.training.loop import train
        from enginery.passes.module.training.losses import task_loss

        loss = task_loss(self, context.resolve)
        with fake_quantized(module, self.bits if self.quantize == "int8" else None):
            details = train(module, self, context, loss, name=self.name)
        changed = 0 if details["kept_epoch"] == 0 else sum(1 for p in module.parameters() if p.requires_grad)
        return module, PassResult(changed=changed, details=details)
