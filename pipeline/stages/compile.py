"""Compile: an ONNX file becomes an engine's artifact."""

from __future__ import annotations

import json
from pathlib import Path

from enginery.engines.base import Artifact, BuildSpec, Engine
from enginery.pipeline.files import pretty_json

RECORD = "artifact.json"
FOLDER = "engine"


def compile_engine(folder: Path, *, engine: Engine, model: Path, spec: BuildSpec) -> None:
    """Build `model` into `folder/engine`, and write `artifact.json` with how to load it.

    Raises:
        EngineError: the engine's runtime refused the model.
    """
    (folder / FOLDER).mkdir()
    artifact = engine.build(model, folder / FOLDER, spec)
    record = {"entry": artifact.entry, "options": dict(artifact.options), "facts": dict(artifact.facts)}
    (folder / RECORD).write_text(pretty_json(record))


def open_artifact(folder: Path) -> Artifact:
    """The artifact that `compile_engine` wrote into `folder`."""
    record = json.loads((folder / RECORD).read_bytes())
    return Artifact(folder / FOLDER, record["entry"], record["options"], record["facts"])
