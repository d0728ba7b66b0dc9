"""Writes a first recipe for a user's own model: an ONNX file, a Hugging Face folder or a Python file.

What the model says is filled in. What it cannot say (the range of a dynamic dimension, real data) is marked with
`CHECK` in the recipe; the scaffolded data file raises until the user puts real data in, because random data would
prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from enginery.errors import UsageError
from enginery.pipeline.files import write_durably
from enginery.pipeline.recipe.file import parse_recipe
from enginery.pipeline.scaffold.draft import Draft, Input, relative
from enginery.pipeline.scaffold.onnx_file import draft_onnx
from enginery.pipeline.scaffold.python_file import draft_python
from enginery.pipeline.scaffold.text import DATA_FILE, data_text, recipe_text


def scaffold(
    origin: str, folder: Path, *, name: str, inputs: Sequence[str] = (), data: Path | None = None
) -> tuple[Path, ...]:
    """Write a recipe for `origin` into `folder` and return the files that were written.

    Args:
        origin: an ONNX file, a Hugging Face model folder, or `file.py` / `file.py:function` for Python.
        folder: is created if need be; nothing in it is overwritten.
        name: the recipe's name; see `recipe_name`.
        inputs: `name:dtype[dims]` each; needed for Python, which does not say its shapes.
        data: an .npz file, or a folder of them, of real inputs; without it a data.py to fill in is written.

    Raises:
        UsageError: the origin is none of these, says too little, or the folder already holds a recipe.
    """
    draft = _draft(origin, folder, [Input.parse(text) for text in inputs])
    if data is not None:
        draft = replace(draft, data={"npz": relative(data, folder)})
    files = {folder / "recipe.yaml": recipe_text(name, draft)}
    if draft.data is None:
        files[folder / DATA_FILE] = data_text(draft.inputs)
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists. Name another folder with --output, or remove the file.")
    parse_recipe(files[folder / "recipe.yaml"], str(folder / "recipe.yaml"))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_durably(path, text.encode())
    return tuple(files)


def recipe_name(text: str) -> str:
    """A valid recipe name out of a name, or out of the path of a model."""
    stem = Path(text.partition(":")[0]).name.removesuffix(".onnx").removesuffix(".py")
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model"


def _draft(origin: str, folder: Path, inputs: Sequence[Input]) -> Draft:
    file, _, function = origin.partition(":")
    path = Path(file)
    if path.suffix == ".onnx" and path.is_file():
        return draft_onnx(path, folder, inputs)
    if path.suffix == ".py" and path.is_file():
        return draft_python(path, function, folder, inputs)
    if (path / "config.json").is_file():
        from enginery.pipeline.scaffold.hf_folder import draft_hf

        return draft_hf(path, folder, inputs)
    raise UsageError(
        f"{origin} is neither an ONNX file, nor a Hugging Face folder (with config.json), nor a Python file "
        "(file.py or file.py:function). Name one that exists."
    )
