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
from typing import Final, get_args

from enginery.errors import UsageError
from enginery.pipeline.files import write_durably
from enginery.pipeline.recipe import Dtype
from enginery.pipeline.recipe.file import parse_recipe
from enginery.pipeline.scaffold.data_file import inputs_of
from enginery.pipeline.scaffold.draft import Draft, Input, relative
from enginery.pipeline.scaffold.onnx_file import draft_onnx
from enginery.pipeline.scaffold.python_file import draft_python
from enginery.pipeline.scaffold.text import DATA_FILE, data_text, recipe_text

_WEIGHTS: Final = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})


def scaffold(
    origin: str,
    folder: Path,
    *,
    name: str,
    inputs: Sequence[str] = (),
    data: Path | None = None,
    weights: Path | None = None,
) -> tuple[Path, ...]:
    """Write a recipe for `origin` into `folder` and return the files that were written.

    Args:
        origin: an ONNX file, a Hugging Face folder, a `.pt2` archive, or `file.py` / `file.py:function` for Python.
        folder: is created if need be; nothing in it is overwritten.
        name: the recipe's name; see `recipe_name`.
        inputs: `name:dtype[dims]` each; Python does not say its shapes, and needs these or `data`.
        data: an .npz file, or a folder of them, of real inputs; without it a data.py to fill in is written.
        weights: a file of the weights that a Python model is given; its digest is pinned.

    Raises:
        UsageError: the origin is none of these, says too little, or the folder already holds a recipe.
    """
    draft = _draft(origin, folder, [Input.parse(text) for text in inputs], data, weights)
    _check_inputs(origin, draft.inputs)
    if data is not None:
        draft = replace(draft, data={"npz": relative(data, folder)})
    files = {folder / "recipe.yaml": recipe_text(name, draft)}
    if draft.data is None:
        files[folder / DATA_FILE] = data_text(draft.inputs)
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists. Give the recipe another name with --name, or remove the file.")
    parse_recipe(files[folder / "recipe.yaml"], str(folder / "recipe.yaml"))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_durably(path, text.encode())
    return tuple(files)


def recipe_name(text: str) -> str:
    """A valid recipe name out of a name, or out of the path of a model."""
    stem = Path(text.partition(":")[0]).name.removesuffix(".onnx").removesuffix(".py")
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model"


def _draft(origin: str, folder: Path, inputs: Sequence[Input], data: Path | None, weights: Path | None) -> Draft:
    file, _, function = origin.partition(":")
    path = Path(file)
    if path.suffix == ".py" and path.is_file():
        return draft_python(path, function, folder, inputs, data, weights)
    if weights is not None:
        raise UsageError(f"--weights goes with a Python file that makes the module, such as net.py:Net, not {origin}.")
    if path.suffix == ".onnx" and path.is_file():
        return draft_onnx(path, folder, inputs)
    if path.suffix == ".pt2" and path.is_file():
        shapes = tuple(inputs) if inputs or data is None else inputs_of(data, {})
        if not shapes:
            raise UsageError(f"{origin} does not say its shapes. Give real inputs with --data, or each with --input.")
        return Draft({"pt2": relative(path, folder)}, shapes)
    if (path / "config.json").is_file():
        from enginery.pipeline.scaffold.hf_folder import draft_hf

        return draft_hf(path, folder, inputs)
    raise UsageError(_what_it_is(origin, path))


def _what_it_is(origin: str, path: Path) -> str:
    """Why nothing can be drafted from a path."""
    if not path.exists():
        return f"There is no {path}. Name an ONNX file, a Hugging Face folder or a Python file (file.py:function)."
    if path.suffix in _WEIGHTS:
        return (
            f"{origin} holds weights and no module. Name the Python file that makes it: "
            f"enginery init net.py:Net --weights {path}"
        )
    return (
        f"{origin} is neither an ONNX file, nor a Hugging Face folder (with config.json), nor a Python file "
        "(file.py or file.py:function)."
    )


def _check_inputs(origin: str, inputs: Sequence[Input]) -> None:
    if not inputs:
        raise UsageError(f"{origin} has no inputs: it is no model, or not a whole one. Export it again.")
    if len({each.name for each in inputs}) < len(inputs):
        raise UsageError(f"An input is given twice: {', '.join(each.name for each in inputs)}.")
    taken = get_args(Dtype)
    if other := next((each for each in inputs if each.dtype not in taken), None):
        raise UsageError(f"The input {other.name!r} is {other.dtype}; expected one of {', '.join(taken)}.")
