"""The numerical proof of a pass: the same feeds through the model before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.errors import EngineError, PassError
from enginery.passes.base import Arrays, Feeds, OpenModel
from enginery.passes.difference import Difference, measure, worst_differences
from enginery.passes.reference import second_opinion

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class Proof:
    """Holds the outputs of the model before a pass, and compares those after it.

    Args:
        open_model: runs an ONNX file literally, with the runtime's own optimizations off.
        feeds: golden inputs at several dynamic shapes.
        original: the model before the first pass.
        scratch: an empty folder for the models in between.

    Raises:
        PassError: the model answers the feeds with nothing but NaN and infinity, so that nothing could be shown.
    """

    def __init__(self, open_model: OpenModel, feeds: Sequence[Feeds], original: Path, scratch: Path) -> None:
        self._open = open_model
        self._feeds = feeds
        self._scratch = scratch
        self._path = self._first = original
        self._count = 0
        self._original = self._outputs(original)
        self._before = self._original
        if not any(_shows(value) for outputs in self._original for value in outputs.values()):
            raise PassError(
                "Nothing can be proved: no output of the model holds a finite number on the inputs given. Give others "
                "(--inputs FILE.npz), or choose --prove off."
            )
        self.opinion = ""
        """What ONNX's reference evaluator said of the last graph."""

    def step(self, graph: gs.Graph, tolerance: float) -> tuple[Difference, ...]:
        """Compare `graph` with the model before the pass; afterwards it is the model before the next one.

        Raises:
            PassError: an output is missing, has another shape or dtype, or differs by more than `tolerance`.
        """
        path = self._save(graph)
        after = self._outputs_after(path)
        differences = worst_differences(zip(self._before, after, strict=True))
        worst = next((d for d in differences if not d.within(tolerance)), None)
        if worst is not None:
            where = _first_difference(self._open, self._path, path, self._feeds, tolerance)
            raise PassError(
                f"It changed output {worst.output!r} by {worst.absolute:.3g} ({worst.relative:.3g} of its scale; "
                f"allowed: {tolerance:g}). The first tensor that differs is {where!r}."
            )
        self._forget()
        self._path, self._before = path, after
        return differences

    def against_original(self, graph: gs.Graph, tolerance: float) -> tuple[Difference, ...]:
        """Compare the graph after the last pass with the model before the first; small ones in a second evaluator too.

        Raises:
            PassError: as `step`.
        """
        path = self._save(graph)
        differences = worst_differences(zip(self._original, self._outputs_after(path), strict=True))
        for difference in differences:
            if not difference.within(tolerance):
                raise PassError(
                    f"All passes together changed output {difference.output!r} by {difference.absolute:.3g} "
                    f"({difference.relative:.3g} of its scale; allowed: {tolerance:g}). "
                    "Run with --prove each to learn which pass did."
                )
        smallest = min(range(len(self._feeds)), key=lambda i: sum(a.size for a in self._feeds[i].values()))
        self.opinion = second_opinion(self._first, path, self._feeds[smallest], self._original[smallest], tolerance)
        return differences

    def _outputs_after(self, path: Path) -> list[Arrays]:
        try:
            return self._outputs(path)
        except EngineError as error:
            raise PassError(
                f"The result cannot be run here to prove it: {error} "
                "Choose --prove off where it is meant for another device, and compare the outputs there."
            ) from error

    def _save(self, graph: gs.Graph) -> Path:
        from enginery.passes.graph.ir import save_graph

        self._count += 1
        path = self._scratch / f"{self._count}.onnx"
        save_graph(graph, path)
        return path

    def _forget(self) -> None:
        if self._path.parent == self._scratch:
            self._path.unlink()
            self._path.with_name(self._path.name + ".data").unlink(missing_ok=True)

    def _outputs(self, path: Path) -> list[Arrays]:
        run = self._open(path, optimize=False)
        return [run(feeds) for feeds in self._feeds]


def _shows(output: Any) -> bool:
    """Whether a changed value in an output could be told from the expected one."""
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "fc":
        return True
    return bool(np.isfinite(output).any())


def _first_difference(
    open_model: OpenModel, before: Path, after: Path, feeds: Sequence[Feeds], tolerance: float
) -> str:
    """The first tensor, in the order of the model after the pass, that both models compute and that differs."""
    from enginery.passes.graph.ir import load_graph, save_graph
    from enginery.passes.graph.shapes import infer_shapes

    graphs = [load_graph(before), load_graph(after)]
    for graph in graphs:
        infer_shapes(graph)
    tensors = [{t.name: t for node in graph.nodes for t in node.outputs if t.dtype is not None} for graph in graphs]
    shared = [name for name in tensors[1] if name in tensors[0]]
    results: list[list[Arrays]] = []
    for graph, known, path in zip(graphs, tensors, (before, after), strict=True):
        declared = {tensor.name for tensor in graph.outputs}
        graph.outputs = [*graph.outputs, *(known[name] for name in shared if name not in declared)]
        probe = after.with_name(f"probe-{path.stem}.onnx")
        save_graph(graph, probe)
        run = open_model(probe, optimize=False)
        results.append([run(feed) for feed in feeds])
    for name in shared:
        for one, other in zip(*results, strict=True):
            if one[name].shape != other[name].shape or not measure(name, one[name], other[name]).within(tolerance):
                return name
    return "the output itself"
