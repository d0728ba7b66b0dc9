"""`convert-pointwise`: linear layers as 1x1 convolutions, or the other way round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

GAIN = (
    "the arithmetic is the same; which form is faster depends on the engine's kernels and on the layout around it, "
    "so measure both"
)


@dataclass(frozen=True)
class ConvertPointwise:
    """Writes one kind of layer as the other, with the same numbers.

    1. `to=conv`: every linear layer becomes a 1x1 convolution over its positions. `to=linear`: every 1x1 convolution
       becomes a linear layer over its channels. Axes are moved before and after; engines cancel neighbouring moves.
    2. The answers on the example stay as they were; the largest error, relative to the outputs' scale, is reported
       under `proved`. Anything above 1e-4 is an error.
    3. Kept as it is, with a reason: a convolution of another kernel size, with a stride, padding or groups;
       weights that are masked or shared.
    4. Passes that look for layers by name find them one level deeper afterwards (`.convolution`, `.linear`): list
       this pass last.
    """

    name: ClassVar[str] = "convert-pointwise"

    to: Literal["conv", "linear"]
    layers: str = ".*"

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        import torch

        from enginery.passes.module.agreement import agreement
        from enginery.passes.module.layers import CONVOLUTIONS, replace, select
        from enginery.passes.module.linear.pointwise import ConvolutionAsLinear, LinearAsConvolution
        from enginery.passes.module.outputs import infer

        expected = infer(module.eval(), context.example)
        kinds = (torch.nn.Linear,) if self.to == "conv" else CONVOLUTIONS
        chosen, refusals = select(module, self.layers, kinds)
        changed: list[str] = []
        for name, layer in chosen:
            if isinstance(layer, torch.nn.Linear):
                replace(module, name, LinearAsConvolution(layer).eval())
            elif reason := _more_than_pointwise(layer):
                refusals.append(Refusal(name, reason))
                continue
            else:
                replace(module, name, ConvolutionAsLinear(layer).eval())
            changed.append(name)
        details: dict[str, Any] = {"gain": GAIN, "converted": changed}
        if changed:
            details["proved"] = agreement(module, expected, context.example)
        return module, PassResult(changed=len(changed), refusals=tuple(refusals), details=details)


def _more_than_pointwise(layer: Any) -> str | None:
    if any(size != 1 for size in layer.kernel_size):
        return f"its kernel is {'x'.join(map(str, layer.kernel_size))}, not 1x1"
    if any(step != 1 for step in layer.stride):
        return f"its stride is {'x'.join(map(str, layer.stride))}"
    if isinstance(layer.padding, str) or any(layer.padding):
        return f"it pads by {layer.padding}"
    return f"it has {layer.groups} groups" if layer.groups > 1 else None
