"""Runs graph passes in order, with one hook between them.

After every pass that changed something the hook checks the model with the ONNX checker, brings types and shapes up to
date, proves the numbers against the model as it was before the pass, and records what happened.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import getfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from enginery.errors import EngineryError, InvalidModelError, PassError
from enginery.passes.base import Feeds, GraphPass, OpenModel, PassResult
from enginery.passes.spec import format_pass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.difference import Difference
    from enginery.passes.proof import Proof

Prove = Literal["off", "end", "each"]

UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number of each half precision."""

ROUNDINGS = 8
"""How many units two evaluations in half precision are allowed to be apart."""

EACH_LIMIT = 512 << 20
"""Models whose files take more bytes than this are proved once, at the end, where nobody says otherwise."""


def default_prove(model: Path) -> Prove:
    """How a model is proved where nobody says: after each pass, or, when it is large, after the last.

    A proof writes and opens the model once for every pass that changed it. `bench/passes.py` measures what that costs:
    under 20 % of a build up to this size (ADR 22). By the size and not by the clock, so that two builds are equal.
    """
    import onnx

    from enginery.passes.graph.ir import external_files

    files = [model, *external_files(onnx.load(model, load_external_data=False), model.parent)]
    return "each" if sum(file.stat().st_size for file in files) <= EACH_LIMIT else "end"


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to the graph, for the report.

    `proof` holds the largest error over all feeds, per graph output, against the model before the pass; it is empty
    when the pass changed nothing or was not proved on its own.
    """

    name: str
    spec: str
    result: PassResult
    seconds: float
    nodes_before: int
    nodes_after: int
    proof: tuple[Difference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "spec": self.spec,
            "changed": self.result.changed,
            "refusals": [asdict(refusal) for refusal in self.result.refusals],
            "details": dict(self.result.details),
            "seconds": self.seconds,
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "proof": [asdict(difference) for difference in self.proof],
        }


def run_graph_passes(
    model: Path,
    output: Path,
    passes: Sequence[GraphPass],
    *,
    open_model: OpenModel,
    feeds: Sequence[Feeds] = (),
    prove: Prove = "each",
) -> tuple[PassRecord, ...]:
    """Apply `passes` to the ONNX file `model` and write `output`.

    A proof allows each pass its own `tolerance`, and where the graph computes in half precision what that rounds.
    `feeds` are inputs at several dynamic shapes; with none given nothing can be proved, and `prove` must be "off".

    Raises:
        PassError: a pass raised, left an invalid model, or broke the numbers. The message names the pass, those that
            ran before it and the first tensor that differs. Or the feeds can prove nothing.
        InvalidModelError: `model` itself is not a valid ONNX file.
    """
    from enginery.passes.graph.ir import load_graph, save_graph
    from enginery.passes.graph.shapes import infer_shapes
    from enginery.passes.proof import Proof

    if prove != "off" and not feeds:
        raise PassError("Passes were to be proved and no feeds were given. Give golden inputs, or prove='off'.")
    graph = load_graph(model)
    check(graph)
    infer_shapes(graph)
    records: list[PassRecord] = []
    with tempfile.TemporaryDirectory(prefix="enginery-proof-", dir=output.parent) as scratch:
        proof = Proof(open_model, feeds, model, Path(scratch)) if prove != "off" else None
        for each in passes:
            try:
                records.append(_run(each, graph, proof if prove == "each" else None))
            except EngineryError as error:
                raise PassError(_blame(each, records, str(error))) from error
            except ImportError:
                raise  # a package that an extra brings
            except Exception as error:  # a pass may be the user's own: whatever it raises, it is named
                words = f"{type(error).__name__}: {error}{_line(error, each)}."
                raise PassError(_blame(each, records, words)) from error
        if proof is not None:
            tolerance = sum(_tolerance(each) for each in passes) or _tolerance(None)
            proof.against_original(graph, max(tolerance, _rounding(graph)))
            if records:
                records[-1] = _with_opinion(records[-1], proof.opinion)
    save_graph(graph, output)
    return tuple(records)


def _with_opinion(record: PassRecord, opinion: str) -> PassRecord:
    """The record of the last pass, with what the reference evaluator said of the graph that it left."""
    details = {**record.result.details, "reference_evaluator": opinion}
    return replace(record, result=replace(record.result, details=details))


def check(graph: gs.Graph) -> None:
    """Run the ONNX checker on the structure; weights are not read.

    Raises:
        InvalidModelError: the checker refused the model.
    """
    import onnx

    from enginery.passes.graph.shapes import export_without_weights

    try:
        onnx.checker.check_model(_with_data(export_without_weights(graph)))
    except onnx.checker.ValidationError as error:
        raise InvalidModelError(f"The ONNX checker refused the model: {error}") from error


def _with_data(model: Any) -> Any:
    """The checker insists on the files of external data; for the check alone a large constant becomes an input."""
    import onnx

    given = {value.name for value in model.graph.input}
    for graph in _graphs_of(model.graph):
        kept = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
        for tensor in graph.initializer:
            # A subgraph may have no inputs, but it sees those of the model.
            if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in given:
                given.add(tensor.name)
                model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return model


def _graphs_of(graph: Any) -> Iterator[Any]:
    """Yield a GraphProto and those in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs_of(inner)


def _line(error: Exception, each: GraphPass) -> str:
    """The last line of the pass's own file that the error went through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == getfile(type(each))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def _run(each: GraphPass, graph: gs.Graph, proof: Proof | None) -> PassRecord:
    from enginery.passes.graph.shapes import infer_shapes

    before = _count(graph)
    start = time.perf_counter()
    result = cast("object", each.apply(graph))
    if not isinstance(result, PassResult):
        raise TypeError(f"apply returned {type(result).__name__!r}, and a PassResult is expected")
    seconds = time.perf_counter() - start
    differences: tuple[Difference, ...] = ()
    if result.changed or not type(each).__module__.startswith("enginery."):  # a pass of the user's own may miscount
        check(graph)
        infer_shapes(graph)
        if proof is not None:
            found = proof.step(graph, max(_tolerance(each), _rounding(graph)))
            differences = found if result.changed else ()
    return PassRecord(each.name, format_pass(each), result, seconds, before, _count(graph), differences)


def _count(graph: gs.Graph) -> int:
    from enginery.passes.graph.edit import scopes

    return sum(len(scope.nodes) for scope in scopes(graph))


def _tolerance(each: GraphPass | None) -> float:
    return float(getattr(each, "tolerance", 1e-5))


def _rounding(graph: gs.Graph) -> float:
    """What an output can differ by, relative to its scale, for no other reason than another order of rounding.

    Nothing that counts where all is computed in float32 (a pass's own tolerance allows for that); `ROUNDINGS` units in
    the last place where some node computes in a half precision. A weight or a mask that is cast makes no difference.
    """
    from enginery.passes.graph.edit import scopes
    from enginery.passes.graph.weights import numpy_dtype

    found = {
        numpy_dtype(tensor).name
        for scope in scopes(graph)
        for node in scope.nodes
        if node.op != "Cast"
        for tensor in node.outputs
        if tensor.dtype is not None
    }
    return max((ROUNDINGS * UNITS[name] for name in found & UNITS.keys()), default=0.0)


def _blame(each: GraphPass, records: Sequence[PassRecord], reason: str) -> str:
    earlier = ", ".join(record.name for record in records if record.result.changed) or "none"
    return (
        f"Pass {format_pass(each)!r} failed (passes that changed the graph before it: {earlier}). {reason} "
        "Leave the pass out of `graph_passes` to build without it."
    )
