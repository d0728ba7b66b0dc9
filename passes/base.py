"""What every pass is, and what it returns.

A *graph pass* edits an ONNX graph in place; a *module pass* edits or replaces an `nn.Module`. Both are frozen
dataclasses with a kebab-case name whose fields are their options, and both return what they did: a refusal
("not fused: the weight is shared with node X") is data that the report shows, not a log line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    import torch

Feeds = Mapping[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]

RunModel = Callable[[Feeds], Arrays]
"""Runs an opened ONNX model once: feeds by name in, every graph output by name out."""


class OpenModel(Protocol):
    """How a pass gets to run a graph. The pipeline hands it in, so that passes know no engine."""

    def __call__(self, model: Path, *, optimize: bool = False) -> RunModel:
        """Open an ONNX file; `optimize=False` runs it literally, with the runtime's own graph optimizations off."""
        ...


@dataclass(frozen=True)
class Refusal:
    """Something a pass could have changed and did not, and why. `node` names the node, tensor or module."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass(frozen=True)
class PassResult:
    """What one run of a pass did.

    `changed` counts edits (0 means that the model is as it was). `details` holds JSON-ready figures that the report
    shows, such as the alpha that was chosen for each tensor.
    """

    changed: int = 0
    refusals: tuple[Refusal, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


class GraphPass(Protocol):
    """A transformation of an ONNX graph. Implementations are frozen dataclasses."""

    name: ClassVar[str]

    def apply(self, graph: gs.Graph) -> PassResult:
        """Edit `graph` in place."""
        ...


@dataclass(frozen=True)
class ModuleContext:
    """What a module pass may use besides the module.

    `example` is one batch of inputs by forward-argument name. `batches` opens the training data anew: pairs of (inputs
    by name, labels or None). `metric` scores a module on the evaluation data; higher is better. `original` makes a
    fresh copy of the model as it was before the first pass (the teacher). `resolve` turns `file.py:function` into the
    object, as the recipe's factory is resolved. `progress` hears (steps done, steps in all or None). `workdir` keeps
    checkpoints, so that a killed training resumes. `seed` fixes every random choice.
    """

    example: Feeds
    batches: Callable[[], Iterable[tuple[Feeds, npt.NDArray[Any] | None]]] | None = None
    metric: Callable[[torch.nn.Module], float] | None = None
    seed: int = 0
    workdir: Path | None = None
    original: Callable[[], torch.nn.Module] | None = None
    resolve: Callable[[str], Any] | None = None
    progress: Callable[[int, int | None], None] | None = None


class ModulePass(Protocol):
    """A transformation of an `nn.Module` before export. Implementations are frozen dataclasses."""

    name: ClassVar[str]

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        """Return the transformed module (the same object, edited, or a new one) and what was done."""
        ...
