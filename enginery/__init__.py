"""Enginery turns a trained model into an inference engine that is shown to answer like the original.

    bundle = enginery.build("minilm", precision="int8")
    with enginery.load(bundle) as session:
        answers = session.run({"input_ids": ids, "attention_mask": mask})

Each function imports what it needs when it is called, so that `import enginery` costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from enginery._version import __version__

if TYPE_CHECKING:
    from typing import Any

    from enginery.pipeline.bundle.session import BundleSession

__all__ = ["__version__", "build", "load"]


def load(
    bundle: str | os.PathLike[str],
    *,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    provider: str | None = None,
    warmup: int = 0,
    selftest: bool = False,
    public_key: str | os.PathLike[str] | None = None,
) -> BundleSession:
    """Open a bundle's engine: `.run({name: array}) -> {name: array}`, `.inputs`, `.outputs`, `.describe()`.

    Where the recipe declared how photos or texts become inputs, `.predict([item, ...]) -> {name: array}` does it.

    The session checks every input by name, dtype, rank and the declared range of each dynamic dimension before the
    runtime sees it. It is thread-safe, and a context manager; `close()` frees the engine.

    Args:
        bundle: the bundle's folder.
        threads: threads of the runtime (default: as the bundle was built).
        options: further options of the engine, such as `{"spinning": False}` (default: as the bundle was built).
        provider: demand that the engine runs on this provider, such as `CUDAExecutionProvider`.
        warmup: run the golden inputs this many times first.
        selftest: compare the engine's answers to the golden inputs with those recorded where it was built.
        public_key: demand a signature that this key, a PEM file, verifies.

    Raises:
        UsageError: there is no bundle, or an option cannot be given at run time.
        IntegrityError: a file of the bundle was changed, added or removed, or its signature does not hold.
        EngineError: the engine cannot run on this machine, not as it was built to, or answers otherwise than there.
    """
    from enginery.pipeline.bundle.session import open_session

    key = None if public_key is None else Path(public_key)
    return open_session(
        Path(bundle),
        threads=threads,
        options=options,
        provider=provider,
        warmup=warmup,
        selftest=selftest,
        public_key=key,
    )


def build(
    recipe: str | os.PathLike[str],
    *,
    target: str | None = None,
    precision: str | None = None,
    output: str | os.PathLike[str] = "build",
    allow: Collection[str] = (),
    trust: bool = False,
) -> Path:
    """Build a recipe for one target and return the bundle's folder.

    Args:
        recipe: a built-in recipe's name, or a recipe file.
        target: the engine to build for (default: the first of the recipe's).
        precision: `fp32`, `int8`, … (default: the recipe's).
        output: the folder for bundles and the store.
        allow: gates that may refuse without stopping the build; the manifest records them.
        trust: load a source whose loading can execute code.

    Raises:
        UsageError: the recipe or an argument is wrong.
        GateRefusedError: a gate refused; the folder then holds `report.json`, which says why, and no bundle.
        EngineryError: a stage failed.
    """
    from enginery.pipeline.build import build as build_bundle
    from enginery.pipeline.recipe.file import load_recipe

    loaded = load_recipe(os.fspath(recipe))
    result = build_bundle(loaded, target=target, precision=precision, output=Path(output), allow=allow, trust=trust)
    return result.bundle
