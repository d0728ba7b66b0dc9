"""Source `onnx`: a file, checked before any runtime sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.engines.onnx_file.check import check_model
from enginery.errors import SourceError
from enginery.pipeline.files import digest_json
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.digest import file_digest
from enginery.pipeline.source.original import Original


def load(source: Source, folder: Path) -> Original:
    """Check the file and say where it is; nothing is read into memory.

    Raises:
        InvalidModelError: the file is malformed or hostile.
        SourceError: there is no such file, or `weights` pins another digest.
    """
    path = _path(source, folder)
    facts = check_model(path)
    files = {name: file_digest(path.parent / name) for name in (path.name, *facts.external_files)}
    if source.weights is not None and source.weights.sha256 not in files.values():
        raise SourceError(
            f"{path.name} has sha256 {files[path.name]}; the recipe pins {source.weights.sha256}. Get the right file, "
            "or pin the new digest."
        )
    return Original("onnx", digest_json(files), onnx=path, provenance={"onnx": path.name, "files": files})


def digest(source: Source, folder: Path) -> dict[str, Any]:
    path = _path(source, folder)
    names = (path.name, *check_model(path).external_files)
    return {"files": {name: file_digest(path.parent / name) for name in names}}


def _path(source: Source, folder: Path) -> Path:
    path = folder / (source.onnx or "")
    if not path.is_file():
        raise SourceError(f"There is no ONNX file {path}. Paths are relative to the recipe.")
    return path
