"""Copies an ONNX file with its external data."""

from __future__ import annotations

import shutil
from pathlib import Path

from enginery.engines.onnx_file.check import check_model
from enginery.errors import EngineError


def copy_model(model: Path, target: Path) -> None:
    """Check an ONNX file and copy it with its external data, names kept, readable for all.

    Files are copied, never linked: a hard link is refused when the model is loaded.
    """
    facts = check_model(model)
    shutil.copyfile(model, target)
    target.chmod(0o644)
    for name in facts.external_files:
        if (target.parent / name) == target:
            raise EngineError(f"{model.name}: its external data file is called {name!r} like the model; rename it.")
        (target.parent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.parent / name, target.parent / name)
        (target.parent / name).chmod(0o644)
