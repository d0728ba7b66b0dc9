"""What a remedy may use besides the graph: statistics, policy, and a way to run the model on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from enginery.errors import DataError
from enginery.passes.base import Feeds, OpenModel, PassResult
from enginery.passes.calibration.batches import Batches
from enginery.passes.calibration.exposed import COMPUTE
from enginery.passes.calibration.observers import Observer
from enginery.passes.calibration.sweep import Calibrated, Sweep
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.fold import fold_weights
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import has_constant_weight

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MOST_BATCHES = 32
"""How many batches remedies look at by default."""

COUNTING_BUDGET = 1 << 30
"""Bytes of activations that are counted at once."""

HELD_OUT_EVERY = 4
"""Every fourth batch measures what the others fitted."""


@dataclass
class QuantizeContext:
    """The surroundings of a quantization.

    Attributes:
        options: What the recipe says. A remedy that keeps nodes in float says so here.
        tensors: Statistics by tensor name. A remedy that rescales a tensor puts its new statistics here.
        workdir: A folder for models that are run on the way.
        float_model: The float graph that Q/DQ pairs were put into; set before remedies of kind `after` run. Nodes have
            the same names in both.
        masks: Inputs that mark valid positions.
        most_batches: How many batches a remedy looks at; more cost time and gain little.
    """

    policy: Policy
    options: QuantizeOptions
    observer: Observer
    tensors: dict[str, TensorStatistics]
    open_model: OpenModel
    batches: Batches | None
    workdir: Path
    float_model: Path | None = None
    masks: tuple[str, ...] = ()
    most_batches: int = MOST_BATCHES
    seed: int = 0
    _counter: list[int] = field(default_factory=lambda: [0])

    def fitting(self) -> Iterator[Feeds]:
        """The batches that remedies fit on; all of them when there are too few to hold any out."""
        return (feeds for index, feeds in self._numbered() if not self._held_out(index))

    def held_out(self) -> Iterator[Feeds]:
        """The batches that remedies are measured on."""
        return (feeds for index, feeds in self._numbered() if self._held_out(index) or not self._enough)

    def write(self, graph: gs.Graph, name: str) -> Path:
        """Save a graph into the work folder under a name of its own."""
        from enginery.passes.graph.ir import save_graph

        self._counter[0] += 1
        path = self.workdir / f"{self._counter[0]}-{name}.onnx"
        save_graph(graph, path)
        return path

    def open_inside(self, graph: gs.Graph, name: str) -> Calibrated:
        """The graph as a model whose inner tensors can be read."""
        return Calibrated.open(self.write(graph, name), self.open_model, self.masks)

    def count_anew(self, graph: gs.Graph, names: Iterable[str], samples: int | None = None) -> None:
        """Give those tensors of `graph` their histogram back that a remedy rescaled.

        Ranges and sums, which stay exact, are kept; what is counted are the batches that remedies fit on, or about
        `samples` samples, as many of each.
        """
        left = [name for name in dict.fromkeys(names) if not self.tensors[name].histogram]
        if not left:
            return
        inside = self.open_inside(graph, "counted")
        most = None if samples is None else -(-samples // max(1, sum(1 for _ in self.fitting())))

        def batches() -> Iterator[Feeds]:
            return (feeds if most is None else inside.first(feeds, most) for feeds in self.fitting())

        while left:
            sweep = Sweep(inside, left, self.workdir, COUNTING_BUDGET, histograms=True)
            sweep.run(batches, None, None)
            for name, seen in sweep.seen.tensors.items():
                had = self.tensors[name]
                # Channels that a remedy takes out of the integer product are in the tensor, and not in its range.
                histogram = seen.histogram.within(had.low, had.high)
                self.tensors[name] = replace(had, histogram=histogram, energy=seen.energy)
            left = sweep.put_off

    def open_folded(self, graph: gs.Graph, name: str) -> Calibrated:
        """The same for a graph with Q/DQ pairs, its weights as integers: quantizing them takes as long as a run."""
        from enginery.passes.graph.ir import load_graph

        copy = load_graph(self.write(graph, name))
        fold_weights(copy)
        return self.open_inside(copy, f"{name}-folded")

    def float_nodes(self) -> dict[str, gs.Node]:
        """The compute nodes of the float model by name. Their weights are read from disk when asked for."""
        from enginery.passes.graph.ir import load_graph

        assert self.float_model is not None
        nodes = load_graph(self.float_model).nodes
        return {node.name: node for node in nodes if node.op in COMPUTE and has_constant_weight(node)}

    def _numbered(self) -> Iterable[tuple[int, Feeds]]:
        return islice(enumerate(self._open()()), self.most_batches)

    def _held_out(self, index: int) -> bool:
        return self._enough and index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1

    @cached_property
    def _enough(self) -> bool:
        """Whether there are batches to hold any out. Asked once: opening the data may cost seconds."""
        return sum(1 for _ in islice(self._open()(), HELD_OUT_EVERY)) == HELD_OUT_EVERY

    def _open(self) -> Batches:
        if self.batches is None:
            raise DataError(
                "This remedy measures on calibration data and got none. Give `data.calibration` or leave it out."
            )
        return self.batches


class Remedy(Protocol):
    """A pass that makes a quantized graph more accurate. Implementations are frozen dataclasses.

    `when` is `before` for those that edit the float graph (and its statistics), `after` for those that edit the graph
    with Q/DQ pairs, whose weights are still float. `worth` is the gain in dB of output SNR that a remedy has to bring
    where nobody asked for it: more for those that cost time when the model runs.
    """

    name: ClassVar[str]
    when: ClassVar[Literal["before", "after"]]
    worth: ClassVar[float]

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit `graph` in place."""
        ...
