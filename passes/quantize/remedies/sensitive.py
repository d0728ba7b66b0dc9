"""The few small layers, and products of attention, whose rounding costs most, in float."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.explain import work_of
from enginery.passes.quantize.fidelity import Fidelity, Reference
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import make_plan, names_of
from enginery.passes.quantize.remedies.bias import corrected_fidelity, folded_fidelity

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Measure = Callable[["gs.Graph", QuantizeContext, Reference], Fidelity]


@dataclass(frozen=True)
class FloatSensitive:
    """Keeps in float the layers that do least of the work and whose rounding costs most.

    1. Layers that do `work` or less of the multiply-accumulates are left out of the quantization one at a time, on the
       first `batches` batches that remedies fit on; what that gains at the outputs, all biases corrected, counts.
    2. Those that gain `least_gain` dB or more stay float, the most sensitive first, until together they would do more
       than `work` of the multiply-accumulates.
    3. Only the first `trials` of such layers are tried: noise made early passes through most layers. The others are
       refused by name.

    `search_mixed_precision` has no such bound on the work, but wants to know what is good enough.
    """

    name: ClassVar[str] = "float-sensitive"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.5

    work: float = 0.08
    least_gain: float = 0.3
    batches: int = 2
    trials: int = 32

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the options in `context`; the graph stays as it is."""
        nodes = [node for node, _ in make_plan(graph, context.policy, context.options, context.tensors).compute]
        works = {names_of(node)[0]: work_of(node, context.tensors) or 0 for node in nodes}
        bound = self.work * sum(works.values())
        small = [name for name, work in works.items() if 0 < work <= bound]
        if not small or len(nodes) < 2:
            return PassResult(refusals=(Refusal("graph", f"no layer does {self.work:.1%} of the work or less"),))
        gains, refusals = self._gains(context.write(graph, self.name), small, context)
        refusals += [
            Refusal(name, f"would gain {gain:.2f} dB") for name, gain in gains.items() if gain < self.least_gain
        ]
        chosen: list[str] = []
        for name in sorted((name for name in gains if gains[name] >= self.least_gain), key=lambda name: -gains[name]):
            if sum(works[each] for each in (*chosen, name)) <= bound:
                chosen.append(name)
            else:
                refusals.append(Refusal(name, f"with it, more than {self.work:.1%} of the work would be float"))
        context.options = context.options.keeping_float(*map(re.escape, chosen))
        details = {"float": {name: round(gains[name], 2) for name in chosen}}
        return PassResult(len(chosen), tuple(refusals), details)

    def _gains(
        self, model: Path, names: Sequence[str], context: QuantizeContext
    ) -> tuple[dict[str, float], list[Refusal]]:
        """What leaving each node in float gains at the outputs, in dB, and the nodes that were not tried."""
        gains = _gains(model, names[: self.trials], replace(context, float_model=model, most_batches=self.batches))
        return gains, [Refusal(name, f"not tried: {self.trials} before it were") for name in names[self.trials :]]


@dataclass(frozen=True)
class FloatProducts:
    """Keeps in float the few products of two computed tensors whose rounding costs most.

    1. Each product that the policy quantizes is left out of the quantization alone, on the first `batches` batches that
       remedies fit on. Where softmax spreads over hundreds of tokens, its results are a few steps of their grid each.
    2. The `most` that gain most stay float, if each gains `least_gain` dB or more at the outputs.
    3. The others are refused with what they would gain: each costs the runtime its fused integer kernel of one layer
       (eight of MiniLM's twelve cost 16 % of the latency at batch 8).
    """

    name: ClassVar[str] = "float-products"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.2

    most: int = 2
    least_gain: float = 0.15
    batches: int = 3

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the options in `context`; the graph stays as it is."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        names = [names_of(node)[0] for node in plan.products]
        if not names:
            return PassResult(refusals=(Refusal("graph", "no product of two computed tensors is quantized"),))
        model = context.write(graph, self.name)
        # A product of two computed tensors has no weight whose rounding shifts a mean.
        gains = _gains(model, names, replace(context, float_model=model, most_batches=self.batches), folded_fidelity)
        best = sorted(names, key=lambda name: -gains[name])[: self.most]
        chosen = [name for name in best if gains[name] >= self.least_gain]
        refusals = [Refusal(name, f"would gain {gain:.2f} dB") for name, gain in gains.items() if name not in chosen]
        context.options = context.options.keeping_float(*map(re.escape, chosen))
        details = {"float": {name: round(gains[name], 2) for name in chosen}}
        return PassResult(len(chosen), tuple(refusals), details)


def _gains(
    model: Path, names: Sequence[str], context: QuantizeContext, measure: Measure = corrected_fidelity
) -> dict[str, float]:
    """What leaving each node in float gains at the outputs, in dB."""
    reference = Reference.record(model, context, context.fitting())
    plain = _score(model, (), context, reference, measure)
    return {name: _score(model, (name,), context, reference, measure).gain_over(plain) for name in names}


def _score(
    model: Path, floating: Sequence[str], context: QuantizeContext, reference: Reference, measure: Measure
) -> Fidelity:
    from enginery.passes.graph.ir import load_graph

    graph = load_graph(model)
    options = context.options.keeping_float(*map(re.escape, floating))
    plan = make_plan(graph, context.policy, options, context.tensors)
    place(graph, plan, context.policy, context.observer, context.tensors)
    return measure(graph, replace(context, options=options), reference)
