"""Mean and covariance of what layers read, over the data, in one streaming run.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.errors import DataError
from enginery.passes.base import Feeds
from enginery.passes.module.layers import Layers
from enginery.passes.module.outputs import infer_hooked

BUDGET_BYTES = 1 << 30
"""Covariances held at once; more layers than fit are measured in further runs over the data."""


@dataclass
class Moments:
    """Weighted mean (n) and centred second moment (n, n) of input vectors, float64; `weight` sums their weights."""

    weight: float
    mean: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def zeros(cls, width: int) -> Moments:
        return cls(0.0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    def update(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        """Add rows (m, n) of weights (m), by the pairwise formula of Chan et al. 1983, which does not cancel."""
        rows, weights = rows.double(), weights.double()
        added = float(weights.sum())
        if not added > 0:
            return
        mean = weights @ rows / added
        centred = rows - mean
        total = self.weight + added
        shift = mean - self.mean
        within = self.covariance * self.weight + (centred * weights[:, None]).T @ centred
        self.covariance = (within + torch.outer(shift, shift) * (self.weight * added / total)) / total
        self.mean = self.mean + shift * (added / total)
        self.weight = total


def width(layer: torch.nn.Module) -> int:
    """Elements of one input vector of a linear layer, or of one patch of a convolution."""
    return layer.get_parameter("weight")[0].numel()


def rows(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The input vectors (m, n) that a linear layer or a zero-padded 2-D convolution multiplies with its weight."""
    if isinstance(layer, torch.nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


def odd_padding(layer: torch.nn.Module) -> str | None:
    """What about a convolution's padding keeps its patches from being cut out as `unfold` does."""
    if isinstance(padding := getattr(layer, "padding", 0), str):
        return f"padding={padding!r} is given as a word"
    mode = getattr(layer, "padding_mode", "zeros")
    return None if mode == "zeros" else f"padding_mode={mode!r}"


def importance(layer: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """The weight (m) of each input vector: the inverse of its squared output, so that relative errors are minimized.

    Without it a few massive activations (|x| near 200 against a 99th percentile of 0.75 in MiniLM) take all the rank,
    and every ordinary token pays.
    """
    outputs = vectors @ layer.get_parameter("weight").detach().double().cpu().flatten(1).T
    energy = outputs.square().sum(1)
    return 1 / energy.clamp_min(float(energy.mean()) * 1e-6 + 1e-30)


def collect(module: torch.nn.Module, layers: Layers, batches: Iterable[Feeds]) -> dict[str, Moments]:
    """Moments of the inputs of `layers`; `batches` is iterated once.

    Raises:
        DataError: there are no batches, or a layer never ran.
    """
    found = {name: Moments.zeros(width(layer)) for name, layer in layers}
    handles = [layer.register_forward_pre_hook(_recorder(found[name])) for name, layer in layers]
    infer_hooked(module, batches, handles)
    if silent := [name for name, moments in found.items() if moments.weight == 0]:
        raise DataError(f"no data reached {silent[0]}; the data is empty, or the module does not use this layer")
    return found


def _recorder(moments: Moments):  # noqa: ANN202  # the hook's type is torch's own
    def record(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        vectors = rows(layer, args[0].detach()).double().cpu()
        moments.update(vectors, importance(layer, vectors))

    return record


def within_budget(layers: Layers, budget: int = BUDGET_BYTES) -> Iterator[Layers]:
    """Split `layers` so that the covariances of each part fit into `budget` bytes (always at least one layer)."""
    part: Layers = []
    held = 0
    for name, layer in layers:
        need = width(layer) ** 2 * 8
        if part and held + need > budget:
            yield part
            part, held = [], 0
        part.append((name, layer))
        held += need
    if part:
        yield part
