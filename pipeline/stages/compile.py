"""Compile: an ONNX file becomes an engine's artifact."""

from __future__ import annotations

import json
from pathlib import Path

from enginery.engines.base import Artifact, BuildSpec, Engine
from enginery.errors import EngineError
from enginery.pipeline.files import pretty_json

RECORD = "artifact.json"
FOLDER = "engine"


def compile_engine(folder: Path, *, engine: Engine, model: Path, spec: BuildSpec) -> None:
    """Build `model` into `folder/engine`, and write `artifact.json` with how to load it.

    A target with a table of what it takes has the graph checked first; what the check warns of is among the facts.

    Raises:
        EngineError: the target does not take the graph as it is meant, or its runtime refused it.
    """
    from enginery.pipeline.conformance import require_conformance

    warnings = require_conformance(model, engine.target, spec.dims)
    (folder / FOLDER).mkdir()
    try:
        artifact = engine.build(model, folder / FOLDER, spec)
    except EngineError as error:
        warned = "".join(f"\n  - {warning}" for warning in warnings)
        raise EngineError(f"{error}\nThe check of the graph had warned:{warned}" if warned else str(error)) from error
    facts = {**artifact.facts, **({"conformance": [each.to_json() for each in warnings]} if warnings else {})}
    record = {"entry": artifact.entry, "options": dict(artifact.options), "facts": facts}
    (folder / RECORD).write_text(pretty_json(record))


def open_artifact(folder: Path) -> Artifact:
    """The artifact that `compile_engine` wrote into `folder`."""
    record = json.loads((folder / RECORD).read_bytes())
    return Artifact(folder / FOLDER, record["entry"], record["options"], record["facts"])
