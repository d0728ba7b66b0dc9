"""Opens a bundle's engine for use. Needs the engine's runtime and nothing that builds: no torch, no onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from enginery.engines import Artifact, Engine, Session, get_engine
from enginery.engines.base import Arrays, DimRange, Feeds, TensorSpec
from enginery.errors import EngineError, UsageError
from enginery.pipeline.bundle.folder import Bundle, verify_bundle
from enginery.pipeline.bundle.postprocess import finish
from enginery.pipeline.bundle.preprocess import prepare
from enginery.pipeline.bundle.selftest import check_golden
from enginery.pipeline.npz import read_npz


class BundleSession(Session):
    """The engine of a bundle: arrays in and out with `run`, raw items in with `predict`."""

    def __init__(self, engine: Session, bundle: Bundle) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.dims)
        self._engine = engine
        self._bundle = bundle

    def run(self, feeds: Feeds) -> Arrays:
        return self._engine.run(feeds)

    def predict(self, items: Sequence[Any]) -> Arrays:
        """From raw items to answers: preprocess, run in batches that the engine takes, join, postprocess.

        Both were declared by the recipe and are pinned in the bundle; see `enginery.pipeline.bundle.postprocess.finish`
        for what the outputs become.

        Args:
            items: texts; or images as paths, encoded bytes, uint8 arrays or PIL images.

        Raises:
            UsageError: the recipe declared no preprocessing.
            DataError: an item cannot be read.
            InputError: there are fewer items than the engine's smallest batch.
        """
        how = self._bundle.manifest.preprocess
        if how is None:
            raise UsageError(
                f"The recipe of {self._bundle.manifest.name} declares no preprocessing (`image` or `tokenize` in its "
                "data). Prepare arrays yourself and call `run`."
            )
        feeds = prepare(items, how, self._bundle.path, self.inputs, self.dims)
        outputs = join([self.run(part) for part in split(feeds, self.inputs, self.dims)], self.outputs)
        return finish(outputs, self._bundle.manifest.postprocess)

    def _run(self, feeds: Feeds) -> Arrays:
        return self._engine.run(feeds)

    def describe(self) -> dict[str, Any]:
        return self._engine.describe()

    def close(self) -> None:
        super().close()
        self._engine.close()


def split(feeds: Arrays, inputs: tuple[TensorSpec, ...], dims: Mapping[str, DimRange]) -> list[Arrays]:
    """Cut a batch into parts of at most the batch dimension's maximum."""
    first = next((spec.shape[0] for spec in inputs if spec.shape), 1)
    most = dims[first].max if isinstance(first, str) and first in dims else first if isinstance(first, int) else 1
    rows = next(iter(feeds.values())).shape[0]
    return [{name: array[start : start + most] for name, array in feeds.items()} for start in range(0, rows, most)]


def join(parts: Sequence[Arrays], outputs: tuple[TensorSpec, ...]) -> Arrays:
    """Put the outputs of consecutive parts of a batch together again."""
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in outputs}


def open_session(
    path: Path,
    *,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    provider: str | None = None,
    warmup: int = 0,
    selftest: bool = False,
    verify: bool = True,
    public_key: Path | None = None,
) -> BundleSession:
    """Verify the bundle at `path` and load its engine.

    Args:
        path: the bundle.
        threads: threads of the runtime (default: as the bundle was built).
        options: further options of the engine, by the names that a recipe uses (default: as the bundle was built).
        provider: demand that the engine runs on this provider or device, by the runtime's own name for it.
        warmup: run the golden inputs this many times before the session is handed over.
        selftest: run the golden inputs and compare with the outputs that were recorded where the bundle was built.
        verify: check every file's digest first; about a second for each gigabyte.
        public_key: demand a signature that this key verifies.

    Raises:
        UsageError: there is no bundle, or its engine does not take an option at run time, or not with that value.
        IntegrityError: a file was changed, added or removed, or the signature does not hold.
        EngineError: the engine cannot run here, runs elsewhere than on `provider`, or fails its self-test.
    """
    path = path.resolve()  # a link that moves to another bundle meanwhile must not lead to what was not verified
    if verify:
        verify_bundle(path, public_key=public_key)
    bundle = Bundle.open(path)
    given = {**(options or {}), **({} if threads is None else {"threads": threads})}
    engine = get_engine(bundle.manifest.target)
    session = BundleSession(engine.load(_with_options(bundle, engine, given), bundle.spec), bundle)
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


def _with_options(bundle: Bundle, engine: Engine, given: Mapping[str, Any]) -> Artifact:
    if unknown := sorted(set(given) - engine.at_run):
        able = f"These can be: {', '.join(sorted(engine.at_run))}" if engine.at_run else "None can be"
        raise UsageError(
            f"The option {unknown[0]!r} of {engine.target} cannot be changed at run time. {able}; the others stand "
            "under `engine` in the recipe and take a new build."
        )
    artifact = bundle.artifact
    return replace(artifact, options={**artifact.options, **given})


def _demand(session: Session, provider: str | None) -> None:
    described = session.describe()
    used = described.get("provider") or described.get("device") or described.get("runtime")
    if provider is not None and provider != used:
        raise EngineError(
            f"{provider} was demanded; the engine runs on {used}. Build the recipe for a target that runs there."
        )
