"""Load: bring the original into memory and write down what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enginery.pipeline.files import pretty_json

if TYPE_CHECKING:
    from enginery.pipeline.source import Original

FILE = "original.json"


def load(folder: Path, *, original: Original) -> None:
    """Write `original.json`: the kind of source, the digest of its weights, provenance and preparation."""
    record = {
        "kind": original.kind,
        "weights_digest": original.weights_digest,
        "provenance": original.provenance,
        "preparation": list(original.preparation),
    }
    (folder / FILE).write_text(pretty_json(record))
