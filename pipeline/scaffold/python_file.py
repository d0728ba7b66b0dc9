"""What a Python file says about the models that it defines: their names and the names of their inputs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginery.errors import UsageError
from enginery.pipeline.scaffold.data_file import inputs_of
from enginery.pipeline.scaffold.draft import Draft, Input, relative


def draft_python(
    path: Path, function: str, folder: Path, inputs: Sequence[Input], data: Path | None, weights: Path | None
) -> Draft:
    """The source, and the inputs as they are given or as the data has them.

    Raises:
        UsageError: the file defines no such callable, or nothing says the shapes.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is not Python: {error}.") from error
    callables = {
        node.name: node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    if not function:
        if len(callables) != 1:
            raise UsageError(f"{path} defines {', '.join(callables) or 'nothing'}. Say which: {path}:NAME.")
        (function,) = callables
    elif function not in callables:
        raise UsageError(
            f"{path} defines no class or function {function!r}; it defines {', '.join(callables) or 'none'}. A model "
            "that is there already is returned by a function."
        )
    takes = _forward_arguments(callables[function])
    source: dict[str, Any] = {"factory": f"{relative(path, folder)}:{function}"}
    if weights is not None:
        source["weights"] = _pinned(weights, folder)
    if inputs:
        return Draft(source, tuple(inputs))
    if data is None:
        names = [name for name, needed in takes.items() if needed] or ["x"]
        example = " ".join(f"--input '{name}:float32[batch,3,224,224]'" for name in names)
        raise UsageError(
            f"Python does not say the shapes of {path}:{function}. Give real inputs with --data samples.npz, or each "
            f"input, such as {example}."
        )
    return Draft(source, inputs_of(data, takes))


def _pinned(weights: Path, folder: Path) -> dict[str, str]:
    from enginery.pipeline.source.digest import file_digest

    return {"path": relative(weights, folder), "sha256": file_digest(weights)}


def _forward_arguments(node: ast.stmt) -> dict[str, bool]:
    """The arguments of a class's `forward`, and whether each is needed."""
    methods = node.body if isinstance(node, ast.ClassDef) else []
    forward = next((m for m in methods if isinstance(m, ast.FunctionDef) and m.name == "forward"), None)
    if forward is None:
        return {}
    names = [argument.arg for argument in (*forward.args.posonlyargs, *forward.args.args)]
    needed = len(names) - len(forward.args.defaults)
    return {name: place < needed for place, name in enumerate(names) if place > 0} | {
        argument.arg: default is None
        for argument, default in zip(forward.args.kwonlyargs, forward.args.kw_defaults, strict=True)
    }
