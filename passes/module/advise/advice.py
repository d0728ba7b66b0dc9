"""What advice is asked for, what it measures with, and what it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from enginery.errors import UsageError

if TYPE_CHECKING:
    import torch

HALF = 0.5


class Trials(Protocol):
    """Builds engines and times them against the whole module's. None: there is no such engine."""

    def latency(self, module: torch.nn.Module, *, int8: bool = False) -> float | None:
        """Latency of the changed module's engine, in int8 or in float, over that of the whole one's in float."""
        ...

    def int8(self, layer: str) -> float | None:
        """The same for the whole module with this layer in int8."""
        ...


@dataclass(frozen=True)
class Budget:
    """What may remain, as shares of the whole: `latency` where it is given and measured, `macs` otherwise.

    `max_drop` is what the score may lose.
    """

    macs: float = HALF
    latency: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("macs", self.macs), ("latency", self.latency)):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"advise: {option}={value} is out of range; expected between 0 and 1")
        if self.max_drop is not None and self.max_drop < 0:
            raise UsageError(f"advise: max_drop={self.max_drop} is out of range; expected 0 or more")


@dataclass(frozen=True)
class Effect:
    """One way to compress one layer: the score it costs, and the shares of the whole module that it saves.

    `coupled` are the layers whose channels can only be pruned together with this one's.
    """

    layer: str
    way: str
    lost: float
    parameters_saved: float
    bytes_saved: float
    macs_saved: float
    latency_saved: float | None
    coupled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Untried:
    """A way that is not open to a layer, and why; `layer` is empty where it is open to none."""

    layer: str
    way: str
    reason: str


@dataclass(frozen=True)
class Proposal:
    """Passes and a precision that reach the budget, with the score and the figures of what they make, before recovery.

    `holds` says whether the score is within the budget without any recovery; None where no drop was stated.
    """

    passes: tuple[str, ...]
    int8: bool
    lost: float
    macs: float
    parameters: float
    latency: float | None
    holds: bool | None


@dataclass(frozen=True)
class Advice:
    score: float
    by: str
    effects: tuple[Effect, ...]
    untried: tuple[Untried, ...]
    proposals: tuple[Proposal, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
