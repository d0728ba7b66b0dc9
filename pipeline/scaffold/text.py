"""The text of a first recipe, and of the data file beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enginery.pipeline.scaffold.draft import Draft, Input

RANGES: Final = {
    "batch": (1, 8, 32),
    **dict.fromkeys(("seq", "sequence", "sequence_length"), (1, 128, 256)),
    "samples": (4000, 16000, 80000),
}
"""The ranges that are guessed for dimensions of these names; `samples` are those of sound at 16 kHz."""

OTHER_RANGE: Final = (1, 128, 256)
DATA_FILE: Final = "data.py"


def _flow(value: Any) -> str:
    """One line of YAML. Plain words stay bare, the rest is quoted as in JSON, which YAML understands."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value):
        return value
    return json.dumps(value)


def recipe_text(name: str, draft: Draft) -> str:
    names = dict.fromkeys(dim for tensor in draft.inputs for dim in tensor.shape if isinstance(dim, str))
    lines = [f"name: {name}", "", "source:"]
    lines += [f"  {key}: {_flow(value)}" for key, value in draft.source.items()]
    lines += ["", "inputs:"]
    lines += [
        f"  {_flow(tensor.name)}: {_flow({'dtype': tensor.dtype, 'shape': tensor.shape})}" for tensor in draft.inputs
    ]
    if names:
        lines += [
            "",
            "# CHECK: the sizes you will serve. Every engine is run at min, opt, max and an odd size.",
            "dims:",
        ]
    samples = {tensor.shape[0] for tensor in draft.inputs if tensor.shape}
    for dim in names:
        guessed = RANGES.get(dim, RANGES["batch"] if samples == {dim} else OTHER_RANGE)
        low, opt, high = (min(size, draft.longest.get(dim, size)) for size in guessed)
        lines.append(f"  {_flow(dim)}: {_flow({'min': low, 'opt': opt, 'max': high})}")
    data = draft.data or {"python": f"{DATA_FILE}:batches"}
    lines += [
        "",
        "# CHECK: real inputs, different ones for calibration and for evaluation where you have them.",
        "data:",
    ]
    lines += [
        f"  {use}: {_flow(data if draft.data else {**data, 'options': {'split': use}})}"
        for use in ("calibration", "evaluation")
    ]
    lines += [
        "",
        "# int8 is built with `--precision int8`, or by saying `precision: int8` here.",
        "precision: fp32",
        "",
    ]
    return "\n".join(lines)


def data_text(inputs: Sequence[Input]) -> str:
    documented = "\n".join(f"        {t.name}: {t.dtype} [{', '.join(map(str, t.shape))}]" for t in inputs)
    example = ", ".join(f'"{tensor.name}": ...' for tensor in inputs)
    return f'''"""Real inputs for calibration and evaluation."""

from collections.abc import Iterator


def batches(split: str) -> Iterator[dict]:
    """Yield batches of inputs as numpy arrays, or pairs of (inputs, labels).

    A batch holds:
{documented}

    `split` is "calibration" or "evaluation".
    """
    # CHECK: replace this by your own data: yield {{{example}}} for each batch.
    raise NotImplementedError(f"data.py says nothing yet: yield your {{split}} batches in it")
'''
