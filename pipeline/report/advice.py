"""Advice about compression as text: a bar for what each layer would cost, and a recipe's lines to copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from enginery.passes.module.advise import Advice, Effect

BAR: Final = 24
"""Characters of the longest bar."""


def advice_lines(advice: Advice, macs: float) -> Iterator[str]:
    """The lines that `enginery compress --advise` prints."""
    yield f"The original scores {advice.score:.5g} ({advice.by}). What one layer costs, without training:"
    yield ""
    width = max((len(effect.layer) for effect in advice.effects), default=5)
    yield f"{'layer':<{width}}  {'way':<9}  {'lost':>9}  {'parameters':>10}  {'MACs':>7}"
    worst = max((effect.lost for effect in advice.effects), default=0.0)
    for effect in advice.effects:
        yield _row(effect, width, worst)
    yield ""
    yield from _proposals(advice, macs)


def _row(effect: Effect, width: int, worst: float) -> str:
    bar = "█" * round(BAR * effect.lost / worst) if worst > 0 and effect.lost > 0 else ""
    row = (
        f"{effect.layer:<{width}}  {effect.way:<9}  {effect.lost:>9.4f}  {-100 * effect.parameters_saved:>9.1f}%  "
        f"{-100 * effect.macs_saved:>6.1f}%  {bar}"
    )
    return row.rstrip()


def _proposals(advice: Advice, macs: float) -> Iterator[str]:
    if not advice.proposals:
        yield f"No way was found to leave {macs:.0%} of the multiply-accumulates. Ask for a larger share with --macs."
        return
    yield f"Ways to leave at most {macs:.0%} of the multiply-accumulates, best first:"
    for proposal in advice.proposals:
        yield ""
        yield (
            f"# loses {proposal.lost:.4f} before recovery; {proposal.macs:.0%} of the multiply-accumulates, "
            f"{proposal.parameters:.0%} of the parameters"
        )
        yield "module_passes:"
        yield from (f"  - {text}" for text in proposal.passes)
    yield ""
    if not any(text.startswith("recover") for text in advice.proposals[0].passes):
        yield "With `data: training:` in the recipe, add `recover{epochs=5}` to train the loss away."
    yield "MACs stand for latency here. Build the recipe: its benchmark measures the engine."
