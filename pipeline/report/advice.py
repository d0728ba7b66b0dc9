"""Advice about compression as text: a bar for what each layer would cost, and a recipe's lines to copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from enginery.passes.module.advise import Advice, Budget, Effect, Proposal

BAR: Final = 24
"""Characters of the longest bar."""

COUPLED: Final = "+n after a layer: n others can only be pruned together with it, and are."

SHOWN: Final = 6
"""Layers that are named where they share a reason."""


def advice_lines(advice: Advice, budget: Budget) -> Iterator[str]:
    """The lines that `enginery compress --advise` prints."""
    yield f"The original scores {advice.score:.5g} ({advice.by}). What one layer costs and saves, without training:"
    yield ""
    width = max((len(layer_text(effect)) for effect in advice.effects), default=5)
    yield f"{'layer':<{width}}  {'way':<9}  {'lost':>9}  {'parameters':>10}  {'bytes':>7}  {'MACs':>7}  {'latency':>7}"
    worst = max((effect.lost for effect in advice.effects), default=0.0)
    for effect in advice.effects:
        yield _row(effect, width, worst)
    yield ""
    if any(effect.coupled for effect in advice.effects):
        yield COUPLED
        yield ""
    if advice.untried:
        yield "Not open:"
        yield from (f"  {text}" for text in untried_lines(advice))
        yield ""
    yield from _proposals(advice, budget)


def _row(effect: Effect, width: int, worst: float) -> str:
    bar = "█" * round(BAR * effect.lost / worst) if worst > 0 and effect.lost > 0 else ""
    latency = "" if effect.latency_saved is None else f"{-100 * effect.latency_saved:+.1f}%"
    layer = layer_text(effect)
    row = (
        f"{layer:<{width}}  {effect.way:<9}  {effect.lost:>9.4f}  {-100 * effect.parameters_saved:>9.1f}%  "
        f"{-100 * effect.bytes_saved:>6.1f}%  {-100 * effect.macs_saved:>6.1f}%  {latency:>7}  {bar}"
    )
    return row.rstrip()


def layer_text(effect: Effect) -> str:
    """The layer, and how many others can only shrink together with it."""
    return f"{effect.layer} +{len(effect.coupled)}" if effect.coupled else effect.layer


def untried_lines(advice: Advice) -> Iterator[str]:
    """A line for each way and reason, with the layers that it holds for."""
    layers: dict[tuple[str, str], list[str]] = {}
    for one in advice.untried:
        layers.setdefault((one.way, one.reason), []).append(one.layer)
    for (way, reason), names in layers.items():
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        yield f"{way} {shown}: {reason}" if shown else f"{way}: {reason}"


def recipe_lines(proposal: Proposal) -> Iterator[str]:
    """The lines of a recipe that the proposal is."""
    if proposal.passes:
        yield "module_passes:"
        yield from (f"  - {text}" for text in proposal.passes)
    if proposal.int8:
        yield "precision: int8"


def budget_text(budget: Budget) -> str:
    """The budget in words."""
    what = f"{budget.macs:.0%} of the multiply-accumulates"
    if budget.latency is not None:
        what = f"{budget.latency:.0%} of the latency"
    return what if budget.max_drop is None else f"{what}, and to lose at most {budget.max_drop:g}"


def proposal_text(proposal: Proposal) -> str:
    """What a proposal leaves and loses, in words."""
    parts = [f"{proposal.macs:.0%} of the multiply-accumulates", f"{proposal.parameters:.0%} of the parameters"]
    if proposal.latency is not None:
        parts.insert(0, f"{proposal.latency:.0%} of the latency")
    verdict = {None: "", True: "; within the budget as it is", False: "; the rest is for recovery to win back"}
    return f"loses {proposal.lost:.4f} before recovery; {', '.join(parts)}{verdict[proposal.holds]}"


def _proposals(advice: Advice, budget: Budget) -> Iterator[str]:
    if not advice.proposals:
        yield f"No way was found to leave at most {budget_text(budget)}. Allow more, or distil a smaller student."
        return
    yield f"Ways to leave at most {budget_text(budget)}, best first:"
    for proposal in advice.proposals:
        yield ""
        yield f"# {proposal_text(proposal)}"
        yield from recipe_lines(proposal)
    yield ""
    if not any(text.startswith("recover") for proposal in advice.proposals for text in proposal.passes):
        yield "With `data: training:` in the recipe, add `recover{epochs=5}` to train the loss away."
    if advice.proposals[0].latency is None:
        yield "Latency was not measured: MACs stand for it. Build the recipe, or leave --no-latency out."
