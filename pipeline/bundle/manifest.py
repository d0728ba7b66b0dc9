"""The manifest: what a bundle is, from what it was made, and what was checked. Versioned and free of timings.

Two builds of one recipe on one machine write the same manifest, byte for byte. What differs between them (seconds,
latencies, the report that shows them) stands in the files that `measurements` names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginery.engines.base import DimRange, TensorSpec
from enginery.errors import IntegrityError
from enginery.pipeline.files import pretty_json

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}
"""Schema version -> what turns a document of that version into one of the next. Version 1 is the first."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Verdict(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"
    ALLOWED = "allowed"
    """Refused, and shipped all the same because the user said `--allow`."""
    DEFERRED = "deferred"
    """Cannot be judged on the machine that built; `complete_with` completes it."""
    SKIPPED = "skipped"
    """Does not apply to this build; the words say why."""


class GateVerdict(Record):
    """What a gate measured. A `figure` that is a timing is left out here and stands in the measurements."""

    gate: str
    verdict: Verdict
    words: str
    figure: float | None = None
    bound: float | None = None


class FileRecord(Record):
    sha256: str
    size: int


class Signature(Record):
    """One input or output. A dimension is a size, or the name of a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


class DimRecord(Record):
    min: int
    opt: int
    max: int

    @property
    def range(self) -> DimRange:
        return DimRange(self.min, self.opt, self.max)


class EngineRecord(Record):
    """How the engine is loaded: `Artifact` without its place on disk."""

    folder: str
    entry: str
    options: dict[str, Any] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)


class StageRecord(Record):
    """One stage: what it read, what it called, and what it says it did."""

    stage: str
    label: str
    key: str
    result: str
    inputs: dict[str, str]
    tools: dict[str, str]
    record: dict[str, Any] = Field(default_factory=dict)


class GoldenCase(Record):
    """Inputs, the engine's outputs (None while its run is deferred) and the original's outputs, as npz files."""

    name: str
    inputs: str
    outputs: str | None
    original: str


class PreprocessRecord(Record):
    """How a raw item becomes inputs, as the recipe declared it; `file` is the tokenizer in the bundle."""

    kind: Literal["image", "text"]
    options: dict[str, Any]
    input: str | None = None
    file: str | None = None


class PostprocessRecord(Record):
    """How an output becomes an answer, as the recipe declared it; `labels` by place in the output's last dimension."""

    apply: Literal["softmax", "sigmoid", "normalize"] | None = None
    top: int | None = None
    labels: tuple[str, ...] = ()


class Manifest(Record):
    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    target: str
    precision: str
    enginery: str
    validated: bool
    complete_with: str | None = None
    engine: EngineRecord
    graph: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    dims: dict[str, DimRecord]
    recipe: dict[str, Any]
    original: dict[str, Any]
    data: dict[str, str]
    stages: tuple[StageRecord, ...]
    gates: tuple[GateVerdict, ...]
    allowed: tuple[str, ...] = ()
    golden: tuple[GoldenCase, ...]
    preprocess: PreprocessRecord | None = None
    postprocess: dict[str, PostprocessRecord] = Field(default_factory=dict[str, PostprocessRecord])
    files: dict[str, FileRecord]
    measurements: tuple[str, ...]

    @property
    def used_files(self) -> tuple[str, ...]:
        """What a session opens, as the manifest names it; a verified bundle lists every one of them."""
        names = [f"{self.engine.folder}/{self.engine.entry}", self.graph]
        for case in self.golden:
            names += (name for name in (case.inputs, case.outputs, case.original) if name is not None)
        if self.preprocess is not None and self.preprocess.file is not None:
            names.append(self.preprocess.file)
        return tuple(names)

    def to_json(self) -> str:
        return pretty_json(self.model_dump(mode="json"))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file; one of an older schema is migrated, step by step.

    Raises:
        IntegrityError: the file is not a manifest, or its schema is newer than this version of Enginery.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read as a manifest: {error}.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int:
        raise IntegrityError(f"{path} has no schema_version: it is not a manifest.")
    if version > SCHEMA_VERSION:
        raise IntegrityError(
            f"{path} has schema version {version}; this Enginery reads up to {SCHEMA_VERSION}. Install a newer one."
        )
    while (step := MIGRATIONS.get(version)) is not None:
        document, version = step(document), version + 1
    try:
        return Manifest.model_validate({**document, "schema_version": version})
    except ValidationError as error:
        raise IntegrityError(f"{path} is not a valid manifest: {error}") from error
