"""The frame of a graph pass that edits one list of nodes at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.errors import PassError
from enginery.passes.base import PassResult, Refusal

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_ROUNDS = 200


@dataclass(frozen=True)
class ScopedPass(ABC):
    """A pass that looks at the graph, every subgraph and every function body in turn, until nothing changes.

    A subclass writes `edit`, which collects changes for one scope. It is called again until it collects none, so
    chains resolve and a second run changes nothing.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5
    """Largest error of an output that the proof accepts, relative to the output's largest absolute value."""

    in_functions: ClassVar[bool] = True
    """Whether the pass is valid in the body of a local function, whose tensors have no types."""

    @abstractmethod
    def edit(self, edits: Edits) -> Iterable[Refusal]:
        """Collect the changes to `edits.graph` and say what was left alone, and why."""

    def apply(self, graph: gs.Graph) -> PassResult:
        """Edit `graph` in place."""
        from enginery.passes.graph.edit import Names, scopes

        names = Names(graph)
        changed = 0
        refusals: list[Refusal] = []
        for scope in list(scopes(graph, functions=self.in_functions)):
            edits, refused = self._settle(scope, names)
            changed += edits
            refusals.extend(refused)
        return PassResult(changed, tuple(dict.fromkeys(refusals)))

    def _settle(self, scope: gs.Graph, names: object) -> tuple[int, list[Refusal]]:
        from enginery.passes.graph.edit import Edits, Names

        assert isinstance(names, Names)
        total = 0
        for _ in range(_ROUNDS):
            edits = Edits(scope, names)
            refused = list(self.edit(edits))
            changed = edits.apply()
            total += changed
            if not changed:
                return total, refused
        raise PassError(
            f"Pass {self.name!r} still changed graph {scope.name!r} after {_ROUNDS} rounds. This is a bug in the pass; "
            "leave it out with --passes and report it."
        )
