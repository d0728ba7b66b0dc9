"""`separate-convolutions`: a convolution becomes a depthwise one and a 1x1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

    from enginery.passes.module.layers import Layers
    from enginery.passes.module.low_rank.moments import Moments


@dataclass(frozen=True)
class SeparateConvolutions:
    """Replaces a k x k convolution by `multiplier` k x k filters for each input channel, then a 1x1 convolution.

    1. The depthwise filters of an input channel are the leading singular vectors of its slice of the weight (out, k*k),
       which is the nearest of this form (Guo et al. 2018, "Network decoupling"); `multiplier = k*k` would be exact.
    2. `aware=true` weighs the slices by what the layer reads on `samples` batches of the training data, and then fits
       the 1x1 convolution and its bias to the layer's outputs, each output vector's relative error counting alike.
       `aware=false` needs no data.
    3. Stride, padding, dilation and the output's shape stay. What is lost is reported for each layer as `kept`, the
       share of the weight's energy, and has to be trained back: list `recover` or `distil` after this pass.
    4. Kept whole, with a reason: kernels of one element, grouped convolutions, a pair that would not be smaller, a
       padding other than zeros given in numbers (with `aware`), a weight that is shared or masked.
    """

    name: ClassVar[str] = "separate-convolutions"

    multiplier: int = 1
    aware: bool = True
    samples: int = 64
    layers: str = ".*"

    def __post_init__(self) -> None:
        for option, value in (("multiplier", self.multiplier), ("samples", self.samples)):
            if value < 1:
                raise UsageError(f"{self.name}: {option}={value} is out of range; expected 1 or more")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        import torch

        from enginery.passes.module.layers import replace, select
        from enginery.passes.module.linear.depthwise import separated

        chosen, refusals = select(module, self.layers, (torch.nn.Conv2d,))
        layers: Layers = []
        for name, layer in chosen:
            reason = self._obstacle(layer)
            if reason is None:
                layers.append((name, layer))
            else:
                refusals.append(Refusal(name, reason))
        moments = self._moments(module, layers, context)
        replaced: dict[str, Any] = {}
        for name, layer in layers:
            pair, kept = separated(layer, self.multiplier, moments.get(name))
            replace(module, name, pair)
            replaced[name] = {"kept": round(kept, 6)}
        details = {"aware": self.aware, "layers": replaced}
        return module.eval(), PassResult(changed=len(replaced), refusals=tuple(refusals), details=details)

    def _obstacle(self, layer: Any) -> str | None:
        from enginery.passes.module.low_rank.moments import odd_padding

        taps = layer.weight[0, 0].numel()
        if layer.groups > 1:
            return "it is a grouped convolution already"
        if taps == 1:
            return "its kernel has one element"
        after = layer.in_channels * self.multiplier * (taps + layer.out_channels)
        if after >= layer.weight.numel():
            return f"the pair would have {after:,} elements, the weight has {layer.weight.numel():,}"
        if self.aware and (padding := odd_padding(layer)):
            return f"its inputs are not measured: {padding}; aware=false separates it"
        return None

    def _moments(self, module: torch.nn.Module, layers: Layers, context: ModuleContext) -> dict[str, Moments]:
        from itertools import islice

        from enginery.passes.module.low_rank.moments import collect, within_budget

        if not self.aware or not layers:
            return {}
        batches = context.batches
        if batches is None:
            raise PassError(
                f"{self.name}: aware=true fits the 1x1 convolutions to real outputs and was given no data; name "
                "`data: training:` in the recipe, or set aware=false"
            )
        found: dict[str, Moments] = {}
        for part in within_budget(layers):
            found |= collect(module, part, (feeds for feeds, _ in islice(batches(), self.samples)))
        return found
