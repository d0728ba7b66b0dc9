"""`share-weights`: k-means codebooks, and codebooks that a model already has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.errors import UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

GAIN = (
    "the file shrinks when codebooks are stored as such (graph pass store-codebooks) or compressed; the runtime "
    "looks the weights up when it loads the model, and then computes as before"
)


@dataclass(frozen=True)
class ShareWeights:
    """Leaves each weight tensor at most `codes` distinct values.

    1. A tensor that already has at most `codes` distinct values is recognized and kept bit for bit, reported under
       `recognized` with their number.
    2. Any other gets a codebook by k-means over its values (`scope=tensor`), or one codebook serves all selected layers
       (`scope=model`).
    3. Zeros stay exactly zero if the tensor has any share of them above `1 / codes`: zero becomes an entry of its own.
    4. Later training (`recover`) moves the entries, and thereby all weights that share one; zero entries do not move.
    5. Kept as it is, with a reason: a layer whose weight is shared with another layer, or that has fewer than
       `least` elements (its codebook would weigh as much).
    """

    name: ClassVar[str] = "share-weights"

    codes: int = 256
    scope: Literal["tensor", "model"] = "tensor"
    least: int = 1024
    layers: str = ".*"

    def __post_init__(self) -> None:
        if not 2 <= self.codes <= 256:
            raise UsageError(f"{self.name}: codes={self.codes} is out of range; expected 2 to 256 (one byte)")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.finish import finish
        from enginery.passes.module.layers import Layers, select
        from enginery.passes.module.share.kmeans import assign
        from enginery.passes.module.share.lookup import share

        del context  # k-means here makes no random choice
        finish(module)  # masked zeros become plain zeros, which the codebooks then hold
        chosen, refusals = select(module, self.layers)
        layers: Layers = []
        for name, layer in chosen:
            if layer.get_parameter("weight").numel() < self.least:
                refusals.append(Refusal(name, f"its weight has fewer than least={self.least} elements"))
            else:
                layers.append((name, layer))
        recognized: dict[str, int] = {}
        made: dict[str, Any] = {}
        pooled = self._pooled(layers) if self.scope == "model" and layers else None
        for name, layer in layers:
            weight = layer.get_parameter("weight").detach()
            values = weight.unique()
            if len(values) <= self.codes:
                recognized[name] = len(values)
                codebook = values.double()
            else:
                codebook = pooled if pooled is not None else self._codebook(weight)
            indices = assign(weight, codebook)
            share(layer, codebook, indices)
            if name not in recognized:
                error = codebook[indices.cpu()] - weight.double().cpu()
                noise = float(error.norm() / weight.double().norm().cpu().clamp_min(1e-30))
                made[name] = {"codes": len(codebook), "relative_error": round(noise, 6)}
        details = {"gain": GAIN, "recognized": recognized, "codebooks": made}
        return module, PassResult(changed=len(made), refusals=tuple(refusals), details=details)

    def _codebook(self, weight: torch.Tensor) -> torch.Tensor:
        """The centroids of the values, with an exact zero among them where zeros are frequent."""
        import torch

        from enginery.passes.module.share.kmeans import kmeans

        zeros = weight == 0
        if float(zeros.double().mean()) * self.codes < 1:
            return kmeans(weight, self.codes)
        centroids = kmeans(weight[~zeros], self.codes - 1)
        return torch.cat([centroids[centroids != 0], torch.zeros(1, dtype=torch.float64)]).sort().values

    def _pooled(self, layers: list[tuple[str, torch.nn.Module]]) -> torch.Tensor:
        import torch

        return self._codebook(torch.cat([layer.get_parameter("weight").detach().flatten() for _, layer in layers]))
