"""Loads the original that a recipe names, and digests it for the store's keys."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginery.pipeline.files import digest_json
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.original import Original


def load_original(recipe: Source, folder: Path, *, trust: bool, seed: int, inputs: Sequence[str] = ()) -> Original:
    """Load the original.

    Args:
        recipe: The recipe's `source`.
        folder: The recipe's folder; relative paths start there.
        trust: Whether files may be loaded that can execute code (`--trust`).
        seed: Fixes the random numbers that a factory draws; the caller's own generators are left as they were.
        inputs: Names of the recipe's inputs; a Hugging Face model is wrapped to take just these.

    Raises:
        SourceError: the source is absent, raised, or is not what the recipe pins.
        UntrustedSourceError: loading it can execute code, and `trust` is false.
        InvalidModelError: an ONNX file is malformed or hostile.
    """
    if recipe.kind == "onnx":
        from enginery.pipeline.source import onnx

        return onnx.load(recipe, folder)
    if recipe.kind == "pt2":
        from enginery.pipeline.source import pt2

        return pt2.load(recipe, folder, trust=trust)
    with _seeded(seed):
        return _load_module(recipe, folder, inputs)


def source_digest(source: Source, folder: Path) -> str:
    """sha256 over all that the original rests on: files, code, options, versions. Imports neither torch nor the code.

    Raises:
        SourceError: a file that the source names is absent.
    """
    from enginery.pipeline.source import factory, hf, onnx, pt2, timm

    by_kind = {"factory": factory.digest, "onnx": onnx.digest, "hf": hf.digest, "timm": timm.digest, "pt2": pt2.digest}
    facts: dict[str, Any] = by_kind[source.kind](source, folder)
    return digest_json({"source": source.model_dump(mode="json"), **facts})


def _load_module(recipe: Source, folder: Path, inputs: Sequence[str]) -> Original:
    from enginery.pipeline.source import factory, hf, timm

    if recipe.kind == "hf":
        return hf.load(recipe, folder, inputs)
    if recipe.kind == "timm":
        return timm.load(recipe, folder)
    return factory.load(recipe, folder)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (factories draw from it)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
