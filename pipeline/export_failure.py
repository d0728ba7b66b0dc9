"""What torch says when it cannot export a module, in words for who wrote that module."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

FIRST: Final = 160
"""Characters of what torch says about a node that an error repeats."""


@contextlib.contextmanager
def without_chatter() -> Generator[None]:
    """Silence the exporter, which warns about its own internals, and about dimensions that share a name, as ours do.

    Where it fails, torch also prints the whole graph that it had so far.
    """
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def explain_failure(error: Exception, module: torch.nn.Module) -> str:
    """What the exporter stumbled over, at which line of the model's code, and what helps."""
    root = _root(error)
    text, reason = str(error.__cause__ or error), str(root)
    names = re.search(r"specialized it to be a constant \((\d+)\)|marked .*? as dynamic but", text)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if names or "Constraints violated" in text:
        detail = next((line.strip(" -") for line in text.splitlines() if line.strip().startswith("-")), first)
        return (
            f"export: a declared dynamic dimension is baked into the model: {detail} "
            "Make it fixed in the recipe, or take the shape-dependent Python code out of `forward`."
        )
    if reason != text:
        first = f"{first[:FIRST]} ({reason.strip().splitlines()[0] if reason.strip() else 'no reason given'})"
    return (
        f"export: torch.onnx cannot export this model: {first.rstrip('. ')}{_place(root, module)}. Data-dependent "
        "control flow and unsupported operators are the usual causes: rewrite that part of `forward`, or export to "
        "ONNX yourself and use `source: {onnx: …}`."
    )


def _root(error: BaseException) -> BaseException:
    """What an exporter stumbled over, below what it says about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _place(error: BaseException, module: torch.nn.Module) -> str:
    """The last line that was traced in a file which defines the module or a part of it, torch's own files apart."""
    import torch

    files = {inspect.getfile(type(each)) for each in module.modules()}
    own = {file for file in files if not Path(file).is_relative_to(Path(torch.__file__).parent)}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
