"""Opens a bundle's engine for use. Needs the engine's runtime and nothing that builds: no torch, no onnx."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginery.engines import Session, get_engine
from enginery.pipeline.bundle import Bundle, verify_bundle


def open_session(path: Path, *, threads: int | None = None, verify: bool = True) -> Session:
    """Verify the bundle at `path` and load its engine.

    Args:
        path: the bundle.
        threads: threads of the runtime (default: as the bundle was built).
        verify: check every file's digest first; about a second for each gigabyte.

    Raises:
        UsageError: there is no bundle, or its engine has no `threads`.
        IntegrityError: a file was changed, added or removed.
        EngineError: the engine cannot run here.
    """
    if verify:
        verify_bundle(path)
    bundle = Bundle.open(path)
    artifact = bundle.artifact
    if threads is not None:
        artifact = replace(artifact, options={**artifact.options, "threads": threads})
    return get_engine(bundle.manifest.target).load(artifact, bundle.spec)
