"""report.html: one file that needs nothing else. No script, no address, and a policy that allows neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from enginery.pipeline.bundle.manifest import GateVerdict, Verdict
from enginery.pipeline.recipe import Mode
from enginery.pipeline.report import charts
from enginery.pipeline.report.charts import Bar
from enginery.pipeline.report.document import Errors, Report, milliseconds
from enginery.pipeline.report.markdown import headline, how_raced, raced_shapes
from enginery.pipeline.report.page import render

if TYPE_CHECKING:
    from markupsafe import Markup

FILE_NAME: Final = "report.html"
_FLOAT = {Mode.FP32, Mode.FP16, Mode.BF16}
_KERNELS = {"integer": "good", "weight-only": "good", "quantize": "warn", "float": "float", "other": "muted"}
_SUBJECTS = {"engine": "engine", "float engine": "float", "original": "muted"}


def render_html(report: Report) -> str:
    """Render a report as one self-contained page; every number is one of report.json's, rounded.

    Raises:
        MissingDependencyError: jinja2 is absent.
    """
    return render(
        "report.html.j2",
        report=report,
        headline=headline(report),
        outcome=outcome(report),
        tiles=_tiles(report),
        errors=[("evaluation data", errors) for errors in report.evaluation]
        + [(case.case, errors) for case in report.cases for errors in case.outputs],
        charts={
            "errors": _errors_chart(report),
            "latency": _latency_chart(report),
            "size": _size_chart(report),
            "kernels": _kernels_chart(report),
            "depth": _depth_chart(report),
            "stages": _stages_chart(report),
        },
        left_in_float=_left_in_float(report),
        worst_layers=sorted((point for point in report.depth if point.tensor), key=lambda point: point.snr),
        layers=[node for node in report.kernels.get("nodes", ()) if node.get("sources")],
        worked=[effect for effect in report.passes if effect.changed or effect.refusals],
        idle=list(dict.fromkeys(effect.spec for effect in report.passes if not (effect.changed or effect.refusals))),
        origin=_flat(report.original),
        raced=raced_shapes(report),
        how_raced=how_raced(report),
        milliseconds=milliseconds,
    )


def outcome(report: Report) -> str:
    """The CSS class of the headline: good, warn or bad."""
    verdicts = {gate.verdict for gate in report.gates}
    if Verdict.REFUSED in verdicts or not report.shipped:
        return "bad"
    return "warn" if verdicts & {Verdict.ALLOWED, Verdict.DEFERRED} else "good"


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The few figures that people look for first: (value, what, how sure)."""
    tiles: list[tuple[str, str, str]] = []
    for ratio in report.speedups:
        spread = f"{ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}"
        tiles.append((f"{ratio.speedup:.2f}x", f"as fast as the {ratio.baseline}", spread))
    original, engine = report.sizes.get("original"), report.sizes.get("engine")
    if original and engine:
        tiles.append((f"{engine / original:.0%}", "of the original's size", f"{engine:,} bytes"))
    worst = worst_error(report)
    if worst is not None:
        tiles.append(worst)
    if report.metric is not None:
        lost = f"drop {report.metric.drop:.3g}, allowed {report.metric.max_drop:g}"
        tiles.append((f"{report.metric.engine:.4g}", report.metric.name, lost))
    heavy = report.kernels.get("heavy", {})
    if heavy.get("integer"):
        tiles.append((f"{heavy['integer']} of {sum(heavy.values())}", "heavy nodes in integers", _covered(report)))
    return tiles


def _covered(report: Report) -> str:
    if report.coverage is None:
        return "matrix products, convolutions"
    return f"{report.coverage:.0%} of the multiply-accumulates"


def worst_error(report: Report) -> tuple[str, str, str] | None:
    """The figure that the precision is judged by, at its worst output on the evaluation data."""
    outputs = report.evaluation or tuple(output for case in report.cases for output in case.outputs)
    if report.precision in _FLOAT:
        known = [(output.relative, output) for output in outputs if output.relative is not None]
        if known:
            value, output = max(known, key=lambda item: item[0])
            return f"{value:.2g}", "largest relative error", f"output {output.name}"
        return None
    known = [(output.cosine_mean, output) for output in outputs if output.cosine_mean is not None]
    if known:
        value, output = min(known, key=lambda item: item[0])
        return f"{value:.5f}", "mean cosine to the original", f"output {output.name}"
    return None


def _errors_chart(report: Report) -> Markup | None:
    rows: list[Bar] = []
    several = len({output.name for case in report.cases for output in case.outputs}) > 1
    isfloat = report.precision in _FLOAT
    for where, output in [("evaluation data", e) for e in report.evaluation] + [
        (case.case, output) for case in report.cases for output in case.outputs
    ]:
        label = f"{output.name} at {where}" if several else where
        bar = _relative_bar(label, output) if isfloat else _snr_bar(label, output)
        if bar is not None:
            rows.append(bar)
    if not rows:
        return None
    if not isfloat:
        return charts.bars("Median per-sample SNR by shape, in dB", rows)
    bound = _gate_bound(report.gates, "accuracy-float")
    return charts.dots(
        "Largest relative error by shape", rows, bound=bound, bound_text="" if bound is None else f"allowed {bound:g}"
    )


def _relative_bar(label: str, output: Errors) -> Bar | None:
    return None if output.relative is None else Bar(label, output.relative, f"{output.relative:.2e}")


def _snr_bar(label: str, output: Errors) -> Bar | None:
    return None if output.snr is None else Bar(label, max(output.snr, 0.0), f"{output.snr:.1f} dB")


def _gate_bound(gates: Sequence[GateVerdict], name: str) -> float | None:
    return next((gate.bound for gate in gates if gate.gate == name), None)


def _latency_chart(report: Report) -> Markup | None:
    rows = [
        Bar(
            # Without the sizes in brackets, which the table of errors gives: they leave no room for the name.
            f"{item.subject}, {item.case.partition(' (')[0]}",
            item.median_ms,
            f"{item.median_ms:,.0f} ms" if item.median_ms >= 1000 else f"{item.median_ms:.3g} ms",
            _SUBJECTS.get(item.subject, "muted"),
            item.low_ms,
            item.high_ms,
        )
        for item in report.latencies
    ]
    return charts.bars("Median latency in milliseconds, with the 10th and 90th percentile", rows) if rows else None


def _size_chart(report: Report) -> Markup | None:
    kinds = {"original": "muted", "engine": "engine"}
    rows = [Bar(what, size, bytes_text(size), kinds.get(what, "float")) for what, size in report.sizes.items()]
    return charts.bars("Size", rows) if rows else None


def bytes_text(size: int) -> str:
    """Bytes in the unit that leaves a readable number: 1 MB is 1,000,000 bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"


def _kernels_chart(report: Report) -> Markup | None:
    heavy: Mapping[str, int] = report.kernels.get("heavy", {})
    pieces = [
        Bar(kind, count, f"{kind} {count}", _KERNELS.get(kind, "muted")) for kind, count in heavy.items() if count
    ]
    return charts.stacked("Heavy nodes by the kind of their kernel", pieces) if pieces else None


def _depth_chart(report: Report) -> Markup | None:
    if not report.depth:
        return None
    labels, values = [point.node for point in report.depth], [point.snr for point in report.depth]
    return charts.depth_line("Median per-sample SNR by depth, in dB", labels, values, "dB")


def _stages_chart(report: Report) -> Markup | None:
    rows = [
        Bar(
            f"{stage.stage} {stage.label}".strip(),
            stage.seconds,
            f"{stage.seconds:.2f} s{', reused' if stage.reused else ''}",
            "muted" if stage.reused else "engine",
        )
        for stage in report.stages
    ]
    return charts.bars("Seconds by stage", rows) if rows else None


def _left_in_float(report: Report) -> list[Mapping[str, Any]]:
    """Heavy nodes in floating point, where others became integer: what int8 did not reach."""
    if not report.kernels.get("heavy", {}).get("integer"):
        return []
    return [node for node in report.kernels.get("nodes", ()) if node.get("heavy") and node.get("kind") == "float"]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as dotted names; empty ones are left out."""
    lines: list[tuple[str, str]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            lines += _flat(inner, f"{prefix}{key}.")
        elif inner not in (None, "", [], ()):
            lines.append((f"{prefix}{key}", ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)))
    return lines
