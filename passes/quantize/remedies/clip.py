"""Weight clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.grid import Grid
from enginery.passes.quantize.layers import is_plain, matrix_of, sample_rows
from enginery.passes.quantize.pairs import grid_of, has_weight_pair, replace_scale, weight_pair
from enginery.passes.quantize.weights import values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ClipWeights:
    """Shrinks the scale of each output channel until clipping its largest weights costs more than finer steps save.

    The range with the least mean squared error (Banner et al. 2019, "Post training 4-bit quantization"), where the
    error of each weight counts by the mean square of the input that it multiplies: what matters is the layer's output.

    1. Every layer whose weight stands in front of a Q/DQ pair takes part; layers that share a weight share the scale.
    2. Shares of the largest weight from 1 down to `least` are tried, `steps` of them.
    3. A weight with one scale for all channels gets the share that is best for all of them together.
    4. A layer that no share improves is left as it is, and refused by name.
    """

    name: ClassVar[str] = "clip-weights"
    when: ClassVar[Literal["before", "after"]] = "after"
    worth: ClassVar[float] = 0.1

    least: float = 0.5
    steps: int = 21
    rows: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.least < 1 or self.steps < 2:
            raise UsageError(
                f"clip-weights: least is {self.least:g}, steps is {self.steps}; expected 0 < least < 1 and steps >= 2."
            )

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the graph with Q/DQ pairs in place: the scales of its float weights."""
        nodes = [node for node in graph.nodes if has_weight_pair(node) and is_plain(node)]
        if not nodes:
            return PassResult(refusals=(Refusal("graph", "no weight is quantized"),))
        inside = context.open_folded(graph, self.name)
        sampled = sample_rows(inside, nodes, context.fitting(), rows=self.rows, seed=context.seed)
        by_pair: dict[str, list[gs.Node]] = {}
        for node in nodes:
            by_pair.setdefault(weight_pair(node).outputs[0].name, []).append(node)
        details: dict[str, Any] = {}
        refusals: list[Refusal] = []
        for users in by_pair.values():
            powers = [np.square(sampled[user.outputs[0].name], dtype=np.float64).mean(axis=1) for user in users]
            clipped = self._clip(users, powers)
            if clipped is None:
                refusals.append(Refusal(users[0].name, "no clipping lowers the error"))
            else:
                details[users[0].name] = clipped
        return PassResult(len(details), tuple(refusals), {"layers": details})

    def _clip(self, users: list[gs.Node], powers: list[Floats]) -> dict[str, Any] | None:
        weight, grid = values(weight_of(users[0])).astype(np.float64), grid_of(weight_pair(users[0]))
        shares = np.linspace(1.0, self.least, self.steps)
        errors = np.stack([_error(users, powers, weight, _shrunk(grid, np.float64(share))) for share in shares])
        best = errors.argmin(axis=0)
        if not best.any():
            return None
        chosen = shares[best]
        for user in users:
            replace_scale(user, (grid.scale * chosen.reshape(grid.scale.shape)).astype(grid.scale.dtype))
        return {
            "clipped_channels": int(np.count_nonzero(best)),
            "least_share": round(float(chosen.min()), 3),
            "error_left": round(float(errors.min(axis=0).sum() / max(errors[0].sum(), 1e-300)), 4),
        }


def _shrunk(grid: Grid, share: np.float64) -> Grid:
    return Grid(grid.scale * share, grid.zero_point, grid.dtype, grid.axis)


def _error(users: list[gs.Node], powers: list[Floats], weight: Floats, grid: Grid) -> Floats:
    """The users' squared output error by output channel, float64 [M], or of all together where there is one scale."""
    lost = np.square(weight - grid.round_trip(weight))
    parts = [
        np.einsum("gk,gkm->gm", power, matrix_of(user, lost)).reshape(-1)
        for user, power in zip(users, powers, strict=True)
    ]
    found = np.sum(parts, axis=0)
    return found if grid.axis is not None else found.sum(keepdims=True)
