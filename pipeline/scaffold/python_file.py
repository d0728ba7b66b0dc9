"""What a Python file says about the models that it defines: their names and the names of their inputs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from enginery.errors import UsageError
from enginery.pipeline.scaffold.draft import Draft, Input, relative


def draft_python(path: Path, function: str, folder: Path, inputs: Sequence[Input]) -> Draft:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
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
        raise UsageError(f"{path} does not define {function!r}; it defines {', '.join(callables) or 'nothing'}.")
    if not inputs:
        names = _forward_arguments(callables[function]) or ["x"]
        example = " ".join(f"--input '{name}:float32[batch,3,224,224]'" for name in names)
        raise UsageError(f"Python does not say the shapes of {path}:{function}. Give each input, such as {example}.")
    return Draft({"factory": f"{relative(path, folder)}:{function}"}, tuple(inputs))


def _forward_arguments(node: ast.stmt) -> list[str]:
    """The argument names of a class's `forward`."""
    methods = node.body if isinstance(node, ast.ClassDef) else []
    forward = next((m for m in methods if isinstance(m, ast.FunctionDef) and m.name == "forward"), None)
    return [] if forward is None else [argument.arg for argument in forward.args.args[1:]]
