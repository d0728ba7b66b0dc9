"""What the report says of module passes: each step's metric, parameters, size and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginery.pipeline.report import PassEffect
from enginery.pipeline.store import Result

FIGURES = {"parameters": "parameters", "nonzero": "of them not zero", "bytes": "bytes", "macs": "MACs a sample"}


def module_pass_effects(compressed: Result | None) -> Iterator[PassEffect]:
    """The rows of the table of passes; none where the recipe lists no module passes."""
    if compressed is None:
        return
    seconds = compressed.measured.get("pass_seconds", {})
    for number, entry in enumerate(compressed.json("compress.json")["passes"]):
        yield PassEffect(
            stage="compress",
            spec=entry["pass"],
            changed=entry["changed"],
            refusals=tuple(entry["refusals"]),
            details={**entry["details"], "before": entry["before"], "after": entry["after"]},
            seconds=seconds.get(str(number)),
        )


def module_pass_notes(compressed: Result | None) -> Iterator[str]:
    """One line a pass, and one for all of them against the original."""
    if compressed is None:
        return
    entries = compressed.json("compress.json")["passes"]
    latency = compressed.measured.get("pass_latency", {})
    for number, entry in enumerate(entries):
        gain = f" Gain: {entry['details']['gain']}." if "gain" in entry["details"] else ""
        timed = latency.get(str(number))
        speed = "" if timed is None else f" Its float engine takes {timed:.2f} of the original's time."
        yield f"{entry['pass']}: {_change(entry, entry)}.{speed}{gain}"
    if len(entries) > 1:
        yield f"All module passes together: {_change(entries[0], entries[-1])}."


def _change(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    parts = [
        f"{words} {before:,} → {after:,}"
        for name, words in FIGURES.items()
        if (before := first["before"][name]) != (after := last["after"][name])
    ]
    if first["metric_before"] is not None:
        parts.append(f"metric {abs(first['metric_before']):.5g} → {abs(last['metric_after']):.5g}")
    return ", ".join(parts) or "nothing changed"
