"""Source `pt2`: a `torch.export` archive. Loading one can execute code, so it needs `--trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.errors import SourceError, UntrustedSourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.original import Original


def load(source: Source, folder: Path, *, trust: bool) -> Original:
    """Load the archive.

    Raises:
        UntrustedSourceError: `trust` is false; the file was not opened.
        SourceError: there is no such file, or torch cannot load it.
    """
    path = _path(source, folder)
    if not trust:
        raise UntrustedSourceError(
            f"{path.name} is a torch.export archive, and loading one can execute code that it carries. Say --trust if "
            "you made it or trust who did; or use a factory with safetensors weights."
        )
    import torch

    digest = file_digest(path)
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # what a foreign archive raises is not bounded
        raise SourceError(f"torch.export.load({path.name!r}) raised {type(error).__name__}: {error}") from error
    # No call of .eval(): an exported module's mode was fixed when it was exported, and changing it raises.
    return Original("pt2", digest, module, provenance={"pt2": path.name, "sha256": digest, "trusted": True})


def digest(source: Source, folder: Path) -> dict[str, Any]:
    return {"sha256": file_digest(_path(source, folder))}


def _path(source: Source, folder: Path) -> Path:
    path = folder / (source.pt2 or "")
    if not path.is_file():
        raise SourceError(f"There is no archive {path}. Paths are relative to the recipe.")
    return path
