"""report.md: for reading in a terminal, a review or a web page. Verdicts first, then the figures behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from enginery.pipeline.bundle.manifest import Verdict
from enginery.pipeline.report.document import Errors, Report, ShapeTime, milliseconds

MARKS = {
    Verdict.PASSED: "passed",
    Verdict.REFUSED: "**REFUSED**",
    Verdict.ALLOWED: "**allowed**",
    Verdict.DEFERRED: "deferred",
    Verdict.SKIPPED: "n/a",
}
MOST_REFUSALS = 20
MOST_LAYERS = 200
MOST_SOURCES = 4
"""Refusals shown per pass; report.json holds them all."""


def render_markdown(report: Report) -> str:
    """Render a report; every number is one of report.json's, rounded."""
    sections = (
        _head,
        _gates,
        _notes,
        _errors,
        _metric,
        _latency,
        _candidates,
        _sizes,
        _kernels,
        _layers,
        _remedies,
        _depth,
        _compression,
        _passes,
        _stages,
        _origin,
    )
    return "\n\n".join(text for section in sections if (text := section(report))) + "\n"


def headline(report: Report) -> str:
    """The outcome in one sentence."""
    refused = [gate.gate for gate in report.gates if gate.verdict is Verdict.REFUSED]
    if refused:
        return f"Refused by {', '.join(refused)}: no bundle was made."
    if not report.shipped:
        return "Stopped before the gates: no bundle was made."
    deferred = [gate.gate for gate in report.gates if gate.verdict is Verdict.DEFERRED]
    allowed = f" Allowed in spite of a refusal: {', '.join(report.allowed)}." if report.allowed else ""
    if deferred:
        return f"Built, not yet run; gates waiting: {', '.join(deferred)}. Complete: `{report.complete_with}`.{allowed}"
    return f"Shipped: every gate that applies passed.{allowed}" if not allowed else f"Shipped.{allowed}"


def _head(report: Report) -> str:
    title = f"# {report.name}: {report.target}, {report.precision}"
    lines = [title, *([report.description] if report.description else []), f"**{headline(report)}**"]
    tensors = [f"- input `{tensor.spec}`" for tensor in report.inputs]
    tensors += [f"- output `{tensor.spec}`" for tensor in report.outputs]
    tensors += [f"- {name}: {dim.min} to {dim.max}, tuned for {dim.opt}" for name, dim in report.dims.items()]
    return "\n\n".join([*lines, "\n".join(tensors)] if tensors else lines)


def _gates(report: Report) -> str:
    rows = [(gate.gate, MARKS[gate.verdict], gate.words) for gate in report.gates]
    return _section("Gates", ("gate", "verdict", "measured"), rows)


def _notes(report: Report) -> str:
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in report.notes) if report.notes else ""


def _errors(report: Report) -> str:
    rows = [("evaluation data", *_error_row(errors)) for errors in report.evaluation]
    rows += [(case.case, *_error_row(errors)) for case in report.cases for errors in case.outputs]
    head = ("on", "output", "samples", "max abs", "relative", "mean cosine", "min cosine", "median SNR", "top-1")
    return _section("Error against the original", head, rows)


def _error_row(errors: Errors) -> tuple[str, ...]:
    if errors.faults:
        return (errors.name, str(errors.samples), "; ".join(errors.faults), "", "", "", "", "")
    agreement = errors.top1 if errors.top1 is not None else errors.equal
    return (
        errors.name,
        str(errors.samples),
        _number(errors.max_abs, "{:.3g}"),
        _number(errors.relative, "{:.3g}"),
        _number(errors.cosine_mean, "{:.6f}"),
        _number(errors.cosine_min, "{:.6f}"),
        _number(errors.snr, "{:.1f} dB"),
        _number(agreement, "{:.2%}"),
    )


def _metric(report: Report) -> str:
    metric = report.metric
    if metric is None:
        return ""
    row = (metric.name, f"{metric.original:.5g}", f"{metric.engine:.5g}", f"{metric.drop:.3g}", f"{metric.max_drop:g}")
    return _section("Task metric", ("metric", "original", "engine", "drop", "allowed"), [row])


def _latency(report: Report) -> str:
    rows = [
        (item.subject, item.case, f"{item.median_ms:.3f}", f"{item.low_ms:.3f} to {item.high_ms:.3f}", str(item.runs))
        for item in report.latencies
    ]
    text = _section("Latency (ms)", ("what", "shape", "median", "10th to 90th percentile", "runs"), rows)
    for ratio in report.speedups:
        text += (
            f"\n\n{ratio.speedup:.2f} times as fast as the {ratio.baseline} "
            f"({ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}, {ratio.pairs} interleaved pairs)."
        )
    return text


def raced_shapes(report: Report) -> tuple[ShapeTime, ...]:
    """The shapes that the candidates of `auto` were timed at, with their weights."""
    return next((item.shapes for item in report.candidates if item.shapes), ())


def how_raced(report: Report) -> str:
    """How the ratios of the candidates were made."""
    raced = raced_shapes(report)
    more = " and ".join(f"{each.shape} counts {each.weight} times" for each in raced if each.weight > 1)
    return (
        "Latency over that of the first float32 engine (of the first engine where there is none), medians of runs in "
        "turns; `of float32` is the geometric mean over the shapes" + (f", in which {more}." if more else ".")
    )


def _candidates(report: Report) -> str:
    raced = raced_shapes(report)
    rows = [
        (
            item.target,
            item.precision,
            ", ".join(f"{key} {value}" for key, value in item.options.items()),
            item.outcome,
            _number(item.ratio, "{:.3f}"),
            *(f"{each.ratio:.3f} ({milliseconds(each.median_ms)})" for each in item.shapes),
            *[""] * (len(raced) - len(item.shapes)),
            _number(item.bytes, "{:,}"),
            item.reason,
        )
        for item in report.candidates
    ]
    shapes = (each.shape for each in raced)
    head = ("target", "precision", "options", "outcome", "of float32", *shapes, "bytes", "reason")
    text = _section("Chosen from", head, rows)
    return f"{text}\n\n{how_raced(report)}" if raced else text


def _sizes(report: Report) -> str:
    base = report.sizes.get("original")
    rows = [(what, f"{size:,}", f"{size / base:.3f}" if base else "") for what, size in report.sizes.items()]
    return _section("Size", ("what", "bytes", "of the original"), rows)


def _kernels(report: Report) -> str:
    heavy, counts = report.kernels.get("heavy", {}), report.kernels.get("counts", {})
    rows = [(kind, str(count), str(heavy.get(kind, ""))) for kind, count in counts.items() if count]
    text = _section("Kernels", ("kind", "nodes", "of these heavy (matrix products, convolutions)"), rows)
    if report.coverage is not None:
        text += f"\n\nQuantization placed {report.coverage:.0%} of the multiply-accumulates in integers."
    left = [
        f"- `{node['node']}` ({node['op']})"
        for node in report.kernels.get("nodes", ())
        if node.get("heavy") and node.get("kind") == "float"
    ]
    if left and heavy.get("integer"):
        text += "\n\nHeavy nodes left in floating point:\n\n" + "\n".join(_first(left, "nodes"))
    return text


def _layers(report: Report) -> str:
    """What the runtime made of the graph, where it says which nodes went into a layer."""
    known = [node for node in report.kernels.get("nodes", ()) if node.get("sources")]
    rows = [
        (
            f"`{node['node']}`",
            node["op"],
            node["kind"],
            "yes" if node["heavy"] else "",
            ", ".join(_shortened(node["sources"])),
        )
        for node in known[:MOST_LAYERS]
    ]
    text = _section("Layers", ("layer", "type", "kind", "heavy", "from the nodes"), rows)
    more = len(known) - len(rows)
    return f"{text}\n\nAnd {more} more; report.json lists them." if more else text


def _shortened(sources: Sequence[str]) -> list[str]:
    more = len(sources) - MOST_SOURCES
    return [*(f"`{source}`" for source in sources[:MOST_SOURCES]), *([f"{more} more"] if more > 0 else [])]


def _remedies(report: Report) -> str:
    rows = [
        (
            f"`{step.spec}`",
            "yes" if step.kept else "",
            str(step.changed),
            _change(step.before, step.after),
            _change(step.worst_before, step.worst_after),
            step.reason,
        )
        for step in report.remedies
    ]
    return _section("Remedies", ("remedy", "kept", "changes", "median SNR (dB)", "worst SNR (dB)", "why not"), rows)


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.1f} → {after:.1f}"


def _depth(report: Report) -> str:
    rows = [(f"`{point.node}`", f"{point.snr:.1f}") for point in report.depth]
    text = _section("Quantization by depth", ("node", "median SNR (dB) against the float graph"), rows)
    worst = sorted((point for point in report.depth if point.tensor), key=lambda point: point.snr)
    drawn = [
        (f"`{p.node}`", f"{p.snr:.1f}", f"`{p.tensor}`", f"{p.low:.4g} to {p.high:.4g}", f"`{p.drawing}`")
        for p in worst
    ]
    head = ("worst layers", "SNR (dB)", "reads", "seen", "spread over [-reach, reach]")
    return f"{text}\n\n{table(head, drawn)}" if drawn else text


def _compression(report: Report) -> str:
    rows = [
        (
            f"`{step.step}`" if "{" in step.step else step.step,
            _number(step.metric, "{:.5g}"),
            _number(step.parameters, "{:,}"),
            _number(step.nonzero, "{:,}"),
            _number(step.bytes, "{:,}"),
            _number(step.macs, "{:,}"),
            _number(step.latency, "{:.2f}"),
        )
        for step in report.compression
    ]
    head = ("after", "metric", "parameters", "not zero", "bytes", "MACs a sample", "latency of the original's")
    return _section("Compression", head, rows)


def _passes(report: Report) -> str:
    active = [effect for effect in report.passes if effect.changed or effect.refusals]
    rows = [
        (
            effect.stage,
            f"`{effect.spec}`",
            str(effect.changed),
            str(len(effect.refusals)),
            _nodes(effect.nodes_before, effect.nodes_after),
        )
        for effect in active
    ]
    idle = dict.fromkeys(f"`{effect.spec}`" for effect in report.passes if effect not in active)
    parts = [table(("stage", "pass", "changes", "refusals", "nodes"), rows)] if rows else []
    parts += [f"Nothing to do for {', '.join(idle)}."] if idle else []
    for effect in active:
        if effect.refusals:
            items = [f"- `{refusal['node']}`: {refusal['reason']}" for refusal in effect.refusals]
            parts += [f"`{effect.spec}` refused:", "\n".join(_first(items, "refusals"))]
    return "\n\n".join(["## Passes", *parts]) if parts else ""


def _nodes(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    return str(after) if before == after else f"{before} → {after}"


def _stages(report: Report) -> str:
    rows = [
        (stage.stage, stage.label, f"{stage.seconds:.2f}", "reused" if stage.reused else "ran", stage.why)
        for stage in report.stages
    ]
    return _section("Stages", ("stage", "of", "seconds", "", "why"), rows)


def _origin(report: Report) -> str:
    lines = [f"- {key}: `{value}`" for key, value in report.original.items() if isinstance(value, (str, int, float))]
    lines += [f"- data `{name}`: sha256 `{digest}`" for name, digest in report.data.items()]
    if report.session:
        lines.append("- runs on " + ", ".join(f"{key} {value}" for key, value in report.session.items() if value))
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    lines.append(f"- built by enginery {report.enginery}" + (f" with {tools}" if tools else ""))
    return "## Provenance\n\n" + "\n".join(lines)


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{table(head, rows)}" if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `|` and line breaks in cells cannot break it."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row([_cell(cell) for cell in row]) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _first(lines: Sequence[str], what: str) -> list[str]:
    more = len(lines) - MOST_REFUSALS
    return [*lines[:MOST_REFUSALS], *([f"- and {more} more {what}; report.json lists them"] if more > 0 else [])]
