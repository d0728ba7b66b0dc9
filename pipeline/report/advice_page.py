"""Advice about compression as a web page: what each layer would cost and save, drawn, and the proposals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from enginery.pipeline.report import charts
from enginery.pipeline.report.advice import COUPLED, budget_text, layer_text, proposal_text, recipe_lines, untried_lines
from enginery.pipeline.report.charts import Bar
from enginery.pipeline.report.page import render

if TYPE_CHECKING:
    from markupsafe import Markup

    from enginery.passes.module.advise import Advice, Budget, Effect


def advice_page(advice: Advice, budget: Budget, name: str) -> str:
    """The page, complete in itself.

    Raises:
        MissingDependencyError: jinja2 is absent.
    """
    drawn = [
        (f"Lost of {advice.score:.5g} ({advice.by}), without training", lambda effect: effect.lost, "{:.4f}"),
        ("Share of the bytes saved", lambda effect: effect.bytes_saved, "{:.1%}"),
        ("Share of the measured latency saved", lambda effect: effect.latency_saved, "{:.1%}"),
        ("Share of the multiply-accumulates saved", lambda effect: effect.macs_saved, "{:.1%}"),
    ]
    figures = [(title, _chart(advice, title, value, form)) for title, value, form in drawn]
    proposals = [(proposal_text(one), "\n".join(recipe_lines(one))) for one in advice.proposals]
    return render(
        "advice.html.j2",
        name=name,
        figures=figures,
        proposals=proposals,
        budget=budget_text(budget),
        untried=list(untried_lines(advice)),
        coupled=COUPLED if any(one.coupled for one in advice.effects) else None,
    )


def _chart(advice: Advice, title: str, value: Callable[[Effect], float | None], form: str) -> Markup | None:
    """A bar for each layer and way; a gain where a loss was expected, or the reverse, has no length but its number."""
    rows = [
        Bar(f"{layer_text(effect)} {effect.way}", max(found, 0.0), form.format(found))
        for effect in advice.effects
        if (found := value(effect)) is not None
    ]
    return charts.bars(title, rows) if rows else None
