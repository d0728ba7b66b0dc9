"""`prune-n-m`: semi-structured sparsity, such as the 2:4 of TensorRT's sparse tensor cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.errors import UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

GAIN = (
    "a dense runtime gains nothing; TensorRT (not TensorRT-RTX) uses 2:4 weights on Ampere and later with "
    "`engine: {tensorrt: {sparsity: true}}` in the recipe; the compressed file shrinks"
)


@dataclass(frozen=True)
class PruneNM:
    """Keeps the `n` largest magnitudes of every `m` consecutive weights along the input dimension.

    1. A linear weight (out, in) is grouped along `in`, a convolution weight (out, in, ...) along its input channels,
       which is the grouping that sparse tensor cores read.
    2. Masks are kept through later training; `recover` after this pass trains the weights that remain.
    3. Kept as it is, with a reason: an input dimension that `m` does not divide (grouped convolutions count the
       channels of one group), a weight that is shared, or already masked.
    """

    name: ClassVar[str] = "prune-n-m"

    n: int = 2
    m: int = 4
    layers: str = ".*"

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UsageError(f"{self.name}: given n={self.n}, m={self.m}; expected 0 < n < m")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.layers import Layers, select
        from enginery.passes.module.prune import masks

        del context  # magnitudes need neither data nor seed
        chosen, refusals = select(module, self.layers)
        layers: Layers = []
        for name, layer in chosen:
            width = layer.get_parameter("weight").shape[1]
            if width % self.m:
                refusals.append(Refusal(name, f"its input dimension {width} is not divisible by {self.m}"))
            else:
                layers.append((name, layer))
        masks.attach(layers)
        masks.write(layers, {name: self._mask(layer.get_parameter("weight_orig")) for name, layer in layers})
        pruned = sum(int((layer.get_buffer("weight_mask") == 0).sum()) for _, layer in layers)
        details = {"gain": GAIN, "sparsity": masks.sparsity(layers)}
        return module, PassResult(changed=pruned, refusals=tuple(refusals), details=details)

    def _mask(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        magnitudes = weight.detach().abs().movedim(1, -1)
        groups = magnitudes.reshape(-1, self.m)
        # Stable: of equal magnitudes the first stays, on every machine.
        kept = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        mask = torch.zeros_like(groups).scatter_(1, kept, 1.0)
        return mask.reshape(magnitudes.shape).movedim(-1, 1)
