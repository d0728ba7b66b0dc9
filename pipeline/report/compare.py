"""What changed between two bundles: verdicts, accuracy, speed, size, passes and versions, from their reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from enginery.pipeline.report.document import Errors, Report
from enginery.pipeline.report.markdown import table
from enginery.pipeline.report.page import render

Better = Literal["better", "worse", ""]
_UP: Final = {
    "cosine_mean": "mean cosine",
    "cosine_min": "minimum cosine",
    "snr": "SNR (dB)",
    "top1": "top-1 agreement",
}
_DOWN: Final = {"relative": "relative error", "max_abs": "largest error"}


@dataclass(frozen=True)
class Change:
    """One figure or fact of both bundles; `ratio` is after over before where both are numbers and before is not 0.

    `additive` figures are told apart by their difference: counts, decibels, and shares and cosines, which end at 1.
    """

    section: str
    what: str
    before: float | str | None
    after: float | str | None
    better: Better = ""
    additive: bool = False

    @property
    def ratio(self) -> float | None:
        if isinstance(self.before, str) or isinstance(self.after, str) or not self.before or self.after is None:
            return None
        return self.after / self.before

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def difference(self) -> str:
        """The change in words: `x1.25` or `+0.25` for figures, `same`, `new`, `gone` or `changed`."""
        if not self.changed:
            return "same"
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        if self.additive and not isinstance(self.before, str) and not isinstance(self.after, str):
            return f"{self.after - self.before:+.3g}"
        return "changed" if self.ratio is None else f"x{self.ratio:.3g}"

    @property
    def texts(self) -> tuple[str, str]:
        return figure_text(self.before), figure_text(self.after)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "changed": self.changed}


def figure_text(value: float | str | None) -> str:
    """A figure in five digits; digests are cut to what tells them apart."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:12] + "…" if len(value) == 64 else value
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def render_comparison_text(changes: Sequence[Change]) -> str:
    """A Markdown table per section; sections in which nothing changed are one line."""
    parts: list[str] = []
    for section, members in by_section(changes).items():
        if not any(change.changed for change in members):
            parts.append(f"{section}: the same")
            continue
        rows = [
            (change.what, *change.texts, f"{change.difference} {change.better}".strip())
            for change in members
            if change.changed
        ]
        parts.append(f"{section}\n\n{table(('what', 'before', 'after', 'change'), rows)}")
    return "\n\n".join(parts) + "\n"


def render_comparison_html(changes: Sequence[Change], before: str, after: str) -> str:
    """One self-contained page, like report.html.

    Raises:
        MissingDependencyError: jinja2 is absent.
    """
    sections = [
        (section, [change for change in members if change.changed]) for section, members in by_section(changes).items()
    ]
    return render("comparison.html.j2", sections=sections, before=before, after=after)


def by_section(changes: Sequence[Change]) -> dict[str, list[Change]]:
    sections: dict[str, list[Change]] = {}
    for change in changes:
        sections.setdefault(change.section, []).append(change)
    return sections


def compare_reports(before: Report, after: Report) -> tuple[Change, ...]:
    """Every figure that either report has, section by section; what is only in one has None in the other."""
    sections = (_identity, _gates, _accuracy, _speed, _size, _kernels, _passes, _versions, _origin)
    return tuple(change for section in sections for change in section(before, after))


def _identity(before: Report, after: Report) -> Iterator[Change]:
    for what in ("name", "target", "precision"):
        yield Change("bundle", what, getattr(before, what), getattr(after, what))


def _gates(before: Report, after: Report) -> Iterator[Change]:
    yield from _facts(
        "gates",
        {gate.gate: gate.verdict.value for gate in before.gates},
        {gate.gate: gate.verdict.value for gate in after.gates},
    )


def _accuracy(before: Report, after: Report) -> Iterator[Change]:
    if before.metric is not None and after.metric is not None and before.metric.name == after.metric.name:
        up = after.metric.higher_is_better
        yield _figure("accuracy", after.metric.name, before.metric.engine, after.metric.engine, up=up, additive=True)
    old, new = _outputs(before), _outputs(after)
    for where in [*old, *(name for name in new if name not in old)]:
        for key, words in {**_DOWN, **_UP}.items():
            first = getattr(old.get(where), key, None)
            second = getattr(new.get(where), key, None)
            if first is not None or second is not None:
                yield _figure("accuracy", f"{where}: {words}", first, second, up=key in _UP, additive=key in _UP)


def _outputs(report: Report) -> dict[str, Errors]:
    found = {f"{errors.name} on evaluation data": errors for errors in report.evaluation}
    return found | {f"{errors.name} at {case.case}": errors for case in report.cases for errors in case.outputs}


def _speed(before: Report, after: Report) -> Iterator[Change]:
    old = {f"{item.subject} at {item.case}: median ms": item.median_ms for item in before.latencies}
    new = {f"{item.subject} at {item.case}: median ms": item.median_ms for item in after.latencies}
    yield from _figures("speed", old, new, up=False)
    old = {f"times as fast as the {ratio.baseline}": ratio.speedup for ratio in before.speedups}
    new = {f"times as fast as the {ratio.baseline}": ratio.speedup for ratio in after.speedups}
    yield from _figures("speed", old, new, up=True)


def _size(before: Report, after: Report) -> Iterator[Change]:
    yield from _figures("size", before.sizes, after.sizes, up=False)


def _kernels(before: Report, after: Report) -> Iterator[Change]:
    old: Mapping[str, int] = before.kernels.get("heavy", {})
    new: Mapping[str, int] = after.kernels.get("heavy", {})
    yield from _facts("heavy nodes by kernel", old, new)


def _passes(before: Report, after: Report) -> Iterator[Change]:
    yield from _facts("changes by pass", _effects(before), _effects(after))


def _effects(report: Report) -> dict[str, float | str]:
    """Changes by pass; a pass that runs several times is summed."""
    sums: dict[str, float | str] = {}
    for effect in report.passes:
        name = f"{effect.stage}: {effect.spec}"
        sums[name] = float(sums.get(name, 0)) + effect.changed
    return sums


def _versions(before: Report, after: Report) -> Iterator[Change]:
    yield from _facts(
        "versions",
        {"enginery": before.enginery, **before.tools},
        {"enginery": after.enginery, **after.tools},
    )


def _origin(before: Report, after: Report) -> Iterator[Change]:
    key = "weights_digest"
    yield Change("origin", "weights", _text(before.original.get(key)), _text(after.original.get(key)))
    yield from _facts("origin", _named(before.data), _named(after.data))


def _named(data: Mapping[str, str]) -> dict[str, str]:
    return {f"{name} data": digest for name, digest in data.items()}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _figures(section: str, before: Mapping[str, float], after: Mapping[str, float], *, up: bool) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        yield _figure(section, name, before.get(name), after.get(name), up=up)


def _figure(
    section: str, what: str, before: float | None, after: float | None, *, up: bool, additive: bool = False
) -> Change:
    """A figure of which more (`up`) or less is better."""
    better: Better = ""
    if before is not None and after is not None and before != after:
        better = "better" if (after > before) == up else "worse"
    return Change(section, what, before, after, better, additive)


def _facts(section: str, before: Mapping[str, float | str], after: Mapping[str, float | str]) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        yield Change(section, name, before.get(name), after.get(name), additive=True)
