"""Remedies by name, and the choice among them by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext, Remedy
from enginery.passes.quantize.fidelity import Fidelity, Reference
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import Plan, make_plan
from enginery.passes.quantize.remedies.attention import SmoothAttention
from enginery.passes.quantize.remedies.bias import CorrectBias, corrected_fidelity, folded_fidelity
from enginery.passes.quantize.remedies.clip import ClipWeights
from enginery.passes.quantize.remedies.ends import FloatEnds
from enginery.passes.quantize.remedies.equalize import Equalize
from enginery.passes.quantize.remedies.ranges import ClipActivations
from enginery.passes.quantize.remedies.rounding import RoundWeights
from enginery.passes.quantize.remedies.sensitive import FloatProducts, FloatSensitive
from enginery.passes.quantize.remedies.smooth import Smooth
from enginery.passes.quantize.remedies.split import SplitOutliers
from enginery.passes.quantize.tables import quantize_tables
from enginery.passes.spec import format_pass, parse_pass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_ALL: Sequence[type[Remedy]] = (
    SplitOutliers,
    Smooth,
    SmoothAttention,
    Equalize,
    ClipActivations,
    FloatProducts,
    FloatSensitive,
    FloatEnds,
    ClipWeights,
    RoundWeights,
    CorrectBias,
)


def remedies() -> Mapping[str, type[Remedy]]:
    """Every remedy by name."""
    return {remedy.name: remedy for remedy in _ALL}


DEFAULT = tuple(remedy.name for remedy in _ALL)
"""What `default` tries, in this order."""

ENOUGH = 24.0
"""dB of output SNR from which on `default` keeps hardly a layer in float: it would cost latency and gain little. For
small independent errors that is a cosine of 0.998 to the float model's outputs."""

BARGAIN = {"work": 0.01, "least_gain": 1.5}
"""What `float-sensitive` may take from `ENOUGH` on: layers that cost next to nothing and gain much. The median sample
is good then, but one layer may be what makes others bad."""

WORST_WORTH = 2.0
"""dB that a bargain has to bring to the worst sample, where the median does not fall."""


@dataclass(frozen=True)
class Step:
    """One remedy that was tried: the outputs before and after (None when not measured), and whether it was kept."""

    remedy: str
    kept: bool
    before: Fidelity | None
    after: Fidelity | None
    result: PassResult

    def to_json(self) -> dict[str, Any]:
        return {
            "remedy": self.remedy,
            "kept": self.kept,
            "before_db": self.before and self.before.median,
            "after_db": self.after and self.after.median,
            "worst_before_db": self.before and self.before.worst,
            "worst_after_db": self.after and self.after.worst,
            "changed": self.result.changed,
            "refusals": [str(refusal) for refusal in self.result.refusals],
            **self.result.details,
        }


@dataclass(frozen=True)
class Treated:
    """A graph with Q/DQ pairs whose weights are float, the plan behind it, and what was tried on the way.

    `tables` are the embedding tables that became integers before all else.
    """

    graph: Any
    plan: Plan
    pairs: int
    steps: tuple[Step, ...]
    tables: PassResult


def treat(model: Path, context: QuantizeContext) -> Treated:
    """Place Q/DQ pairs and apply remedies: those that the options name, or those that measurement favours.

    Named remedies are applied in their order without question. With `default` each is kept if it raises the median
    output SNR on held-out batches by what it is `worth`; without calibration data none is tried. Those that leave
    biases alone are measured with corrected ones: where shifted means drown all else, none of them would show a gain.
    """
    if context.options.passes == "default":
        return _choose(model, context) if context.batches is not None else _apply(model, context, ())
    return _apply(model, context, named_remedies(context.options))


def named_remedies(options: QuantizeOptions) -> list[Remedy]:
    """The remedies that the options name, in order; none where they leave the choice to measurement.

    Raises:
        UsageError: there is no such remedy, or it takes no such option.
    """
    return [] if options.passes == "default" else [parse_pass(text, remedies()) for text in options.passes]


def _apply(model: Path, context: QuantizeContext, given: Sequence[Remedy]) -> Treated:
    from enginery.passes.graph.ir import load_graph

    graph = load_graph(model)
    name_nodes(graph)
    tables = quantize_tables(graph, context.policy, context.options)
    steps = [_run(remedy, graph, context) for remedy in given if remedy.when == "before"]
    context.float_model = context.write(graph, "float")
    plan, pairs = _place(graph, context)
    steps += [_run(remedy, graph, context) for remedy in given if remedy.when == "after"]
    return Treated(graph, plan, pairs, tuple(steps), tables)


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a name of its own: remedies find nodes of one graph in another by it."""
    from enginery.passes.graph.edit import Names

    names = Names(graph)
    taken: set[str] = set()
    for node in graph.nodes:
        if not node.name or node.name in taken:
            node.name = names.fresh(f"{node.outputs[0].name}/{node.op}")
        taken.add(node.name)


def _run(remedy: Remedy, graph: gs.Graph, context: QuantizeContext) -> Step:
    return Step(format_pass(remedy), kept=True, before=None, after=None, result=remedy.apply(graph, context))


def _place(graph: gs.Graph, context: QuantizeContext) -> tuple[Plan, int]:
    plan = make_plan(graph, context.policy, context.options, context.tensors)
    _count_rescaled(graph, plan, context)
    return plan, place(graph, plan, context.policy, context.observer, context.tensors)


def _count_rescaled(graph: gs.Graph, plan: Plan, context: QuantizeContext) -> None:
    """Count the tensors anew that a remedy rescaled, where the observer reads histograms and the others have theirs."""
    counted = any(tensor.histogram for tensor in context.tensors.values())
    if context.observer.histograms and counted and context.batches is not None:
        context.count_anew(graph, (*plan.outputs, *(node.inputs[index].name for node, index in plan.inputs)))


def _choose(model: Path, context: QuantizeContext) -> Treated:
    """Keep what helps. Graphs go through files between steps, so that a rejected edit leaves no trace."""
    trials = _Trials(model, context)
    for text in DEFAULT:
        trials.try_out(parse_pass(text, remedies()))
    return trials.result()


def is_worth_it(remedy: Remedy, before: Fidelity, after: Fidelity) -> bool:
    """Whether a remedy that nobody asked for stays: by the median sample, or a bargain by the worst one."""
    bargain = isinstance(remedy, FloatSensitive) and before.median >= ENOUGH
    gain = after.gain_over(before)
    if bargain and gain >= 0 and after.worst >= before.worst + WORST_WORTH:
        return True
    return gain >= remedy.worth


class _Trials:
    """The best graph so far: `float_model` before placement, `placed` after it, and its output SNR."""

    def __init__(self, model: Path, context: QuantizeContext) -> None:
        from enginery.passes.graph.ir import load_graph

        self._context = context
        self._reference = Reference.record(model, context)
        self._steps: list[Step] = []
        graph = load_graph(model)
        name_nodes(graph)
        self._tables = quantize_tables(graph, context.policy, context.options)
        context.float_model = context.write(graph, "float")
        self._placed, self._plan, self._pairs = self._place(context.float_model)
        self._correcting = True
        self._score = self._measure(self._placed)

    def try_out(self, remedy: Remedy) -> None:
        from enginery.passes.graph.ir import load_graph

        context, before = self._context, remedy.when == "before"
        if reason := context.policy.unasked.get(remedy.name):
            self._refuse(remedy, reason)
            return
        if isinstance(remedy, FloatProducts | FloatSensitive | FloatEnds) and self._score.median >= ENOUGH:
            if not isinstance(remedy, FloatSensitive):
                reason = f"the outputs are at {self._score.median:.1f} dB; layers are kept in float below {ENOUGH:g} dB"
                self._refuse(remedy, reason)
                return
            remedy = replace(remedy, **BARGAIN)
        if self._correcting and isinstance(remedy, RoundWeights | CorrectBias):
            self._correcting = False
            self._score = self._measure(self._placed)
        tensors, options, float_model = dict(context.tensors), context.options, context.float_model
        assert float_model is not None
        graph = load_graph(float_model if before else self._placed)
        result = remedy.apply(graph, context)
        if result.changed == 0:
            self._record(remedy, result)
            return
        edited = context.write(graph, remedy.name)
        placed, plan, pairs = self._place(edited) if before else (edited, self._plan, self._pairs)
        after = self._measure(placed, edited if before else context.float_model)
        kept = is_worth_it(remedy, self._score, after)
        self._record(remedy, result, after, kept=kept)
        if kept:
            self._placed, self._plan, self._pairs, self._score = placed, plan, pairs, after
            context.float_model = edited if before else float_model
        else:
            context.tensors, context.options = tensors, options

    def _refuse(self, remedy: Remedy, reason: str) -> None:
        self._record(remedy, PassResult(refusals=(Refusal("graph", reason),)))

    def _record(self, remedy: Remedy, result: PassResult, after: Fidelity | None = None, *, kept: bool = False) -> None:
        self._steps.append(Step(format_pass(remedy), kept, self._score, after, result))

    def result(self) -> Treated:
        from enginery.passes.graph.ir import load_graph

        return Treated(load_graph(self._placed), self._plan, self._pairs, tuple(self._steps), self._tables)

    def _measure(self, placed: Path, float_model: Path | None = None) -> Fidelity:
        """The outputs' fidelity, with the biases that the graph would get unless the remedy sets them itself."""
        from enginery.passes.graph.ir import load_graph

        if not self._correcting:
            return folded_fidelity(load_graph(placed), self._context, self._reference)
        context = replace(self._context, float_model=float_model or self._context.float_model)
        return corrected_fidelity(load_graph(placed), context, self._reference)

    def _place(self, float_model: Path) -> tuple[Path, Plan, int]:
        from enginery.passes.graph.ir import load_graph

        graph = load_graph(float_model)
        plan, pairs = _place(graph, self._context)
        return self._context.write(graph, "placed"), plan, pairs
