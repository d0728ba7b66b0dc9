"""Opens a bundle's engine for use. Needs the engine's runtime and nothing that builds: no torch, no onnx."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginery.engines import Session, get_engine
from enginery.errors import EngineError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.npz import read_npz
from enginery.pipeline.selftest import check_golden


def open_session(
    path: Path,
    *,
    threads: int | None = None,
    provider: str | None = None,
    warmup: int = 0,
    selftest: bool = False,
    verify: bool = True,
    public_key: Path | None = None,
) -> Session:
    """Verify the bundle at `path` and load its engine.

    Args:
        path: the bundle.
        threads: threads of the runtime (default: as the bundle was built).
        provider: demand that the engine runs on this provider or device, by the runtime's own name for it.
        warmup: run the golden inputs this many times before the session is handed over.
        selftest: run the golden inputs and compare with the outputs that were recorded where the bundle was built.
        verify: check every file's digest first; about a second for each gigabyte.
        public_key: demand a signature that this key verifies.

    Raises:
        UsageError: there is no bundle, or its engine has no `threads`.
        IntegrityError: a file was changed, added or removed, or the signature does not hold.
        EngineError: the engine cannot run here, runs elsewhere than on `provider`, or fails its self-test.
    """
    if verify:
        verify_bundle(path, public_key=public_key)
    bundle = Bundle.open(path)
    artifact = bundle.artifact
    if threads is not None:
        artifact = replace(artifact, options={**artifact.options, "threads": threads})
    session = get_engine(bundle.manifest.target).load(artifact, bundle.spec)
    try:
        _demand(session, provider)
        if selftest:
            check_golden(path, bundle.manifest, session.run)
        for case in bundle.manifest.golden if warmup else ():
            feeds = read_npz(path / case.inputs)
            for _ in range(warmup):
                session.run(feeds)
    except BaseException:
        session.close()
        raise
    return session


def _demand(session: Session, provider: str | None) -> None:
    described = session.describe()
    used = described.get("provider") or described.get("device") or described.get("runtime")
    if provider is not None and provider != used:
        raise EngineError(
            f"{provider} was demanded; the engine runs on {used}. Build the recipe for a target that runs there."
        )
