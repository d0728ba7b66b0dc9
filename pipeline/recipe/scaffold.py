"""Writes a first recipe for a user's own model: an ONNX file, a Hugging Face folder or a Python file.

What the model says is filled in. What it cannot say (the range of a dynamic dimension, real data) is marked with
`CHECK` in the recipe; the scaffolded data file raises until the user puts real data in, because random data would
prove nothing.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery.errors import InvalidModelError, UsageError
from enginery.pipeline.files import write_durably
from enginery.pipeline.recipe.file import parse_recipe

RANGES: Final = {"batch": (1, 8, 32), **dict.fromkeys(("seq", "sequence", "sequence_length"), (1, 128, 256))}
"""The ranges that are guessed for dimensions of these names."""

OTHER_RANGE: Final = (1, 128, 256)

_INPUT = re.compile(r"(?P<name>[^:\s]+):(?P<dtype>\w+)\[(?P<shape>[^\]]*)\]")
_DATA_FILE = "data.py"


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def parse(cls, text: str) -> Input:
        """Read `name:dtype[dim, dim]`, such as `image:float32[batch,3,224,224]`."""
        match = _INPUT.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--input {text!r}: expected name:dtype[dims], such as 'image:float32[batch,3,224,224]'.")
        dims = [part.strip() for part in match["shape"].split(",") if part.strip()]
        shape = tuple(int(dim) if dim.isdigit() else dim for dim in dims)
        return cls(match["name"], match["dtype"], shape)


@dataclass(frozen=True)
class Draft:
    """What a model said about itself. `source` and `data` are mappings of the recipe's keys."""

    source: Mapping[str, Any]
    inputs: tuple[Input, ...]
    data: Mapping[str, Any] | None = None


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
        draft = Draft(draft.source, draft.inputs, {"npz": _relative(data, folder)})
    files = {folder / "recipe.yaml": _recipe_text(name, draft)}
    if draft.data is None:
        files[folder / _DATA_FILE] = _data_text(draft.inputs)
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


def _draft(origin: str, folder: Path, inputs: list[Input]) -> Draft:
    file, _, function = origin.partition(":")
    path = Path(file)
    if path.suffix == ".onnx" and path.is_file():
        return Draft({"onnx": _relative(path, folder)}, tuple(inputs) or _onnx_inputs(path))
    if path.suffix == ".py" and path.is_file():
        return _python_draft(path, function, folder, inputs)
    if (path / "config.json").is_file():
        return _hf_draft(path, folder, inputs)
    raise UsageError(
        f"{origin} is neither an ONNX file, nor a Hugging Face folder (with config.json), nor a Python file "
        "(file.py or file.py:function). Name one that exists."
    )


def _onnx_inputs(path: Path) -> tuple[Input, ...]:
    """The graph's inputs; initializers that older exporters list among them are left out."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InvalidModelError(f"{path} is not an ONNX file: {error}") from error
    initializers = {tensor.name for tensor in graph.initializer}
    return tuple(
        Input(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            _onnx_shape(value.name, value.type.tensor_type.shape.dim),
        )
        for value in graph.input
        if value.name not in initializers
    )


def _onnx_shape(name: str, dims: Sequence[Any]) -> tuple[int | str, ...]:
    shape: list[int | str] = []
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(dim.dim_value)
        else:
            unnamed = "batch" if axis == 0 else f"{name}_{axis}"
            shape.append(re.sub(r"\W+", "_", dim.dim_param).strip("_") or re.sub(r"\W+", "_", unnamed))
    return tuple(shape)


def _python_draft(path: Path, function: str, folder: Path, inputs: list[Input]) -> Draft:
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
    return Draft({"factory": f"{_relative(path, folder)}:{function}"}, tuple(inputs))


def _forward_arguments(node: ast.stmt) -> list[str]:
    """The argument names of a class's `forward`."""
    methods = node.body if isinstance(node, ast.ClassDef) else []
    forward = next((m for m in methods if isinstance(m, ast.FunctionDef) and m.name == "forward"), None)
    return [] if forward is None else [argument.arg for argument in forward.args.args[1:]]


def _hf_draft(path: Path, folder: Path, inputs: list[Input]) -> Draft:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    source = {"hf": _relative(path, folder)}
    if inputs:
        return Draft(source, tuple(inputs))
    if "image_size" in config and "vocab_size" not in config:
        size, channels = config["image_size"], config.get("num_channels", 3)
        height, width = size if isinstance(size, list) else (size, size)
        return Draft(source, (Input("pixel_values", "float32", ("batch", channels, height, width)),))
    if "vocab_size" not in config:
        raise UsageError(
            f"{path}/config.json names neither an image_size nor a vocab_size, so its inputs cannot be told. "
            "Give each, such as --input 'input_values:float32[batch,16000]'."
        )
    text = tuple(Input(name, "int64", ("batch", "seq")) for name in ("input_ids", "attention_mask"))
    if not (path / "tokenizer.json").is_file():
        return Draft(source, text)
    tokenizer = _relative(path / "tokenizer.json", folder)
    return Draft(source, text, {"text": "sentences.txt", "tokenize": {"tokenizer": tokenizer, "max_length": 256}})


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _flow(value: Any) -> str:
    """One line of YAML. Plain words stay bare, the rest is quoted as in JSON, which YAML understands."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value):
        return value
    return json.dumps(value)


def _recipe_text(name: str, draft: Draft) -> str:
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
    for dim in names:
        low, opt, high = RANGES.get(dim, OTHER_RANGE)
        lines.append(f"  {_flow(dim)}: {_flow({'min': low, 'opt': opt, 'max': high})}")
    data = draft.data or {"python": f"{_DATA_FILE}:batches"}
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


def _data_text(inputs: Sequence[Input]) -> str:
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
