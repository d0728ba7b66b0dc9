"""What is wrong with a Triton model repository: what Triton would refuse, and what it accepts in silence.

The silent ones were tried: two inputs of one name, a path in a file name (it is looked up outside the version folder),
and dynamic batching with `max_batch_size: 0` (nothing is batched).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from enginery.errors import IntegrityError, UsageError
from enginery.pipeline.extras import missing
from enginery.pipeline.release.triton_config import schema

CONFIG: Final = "config.pbtxt"
_BYTES: Final = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_INT8": 1, "TYPE_UINT16": 2, "TYPE_INT16": 2, "TYPE_FP16": 2, "TYPE_BF16": 2,
    "TYPE_UINT32": 4, "TYPE_INT32": 4, "TYPE_FP32": 4, "TYPE_UINT64": 8, "TYPE_INT64": 8, "TYPE_FP64": 8,
}  # fmt: skip


def lint_repository(repository: Path) -> list[str]:
    """Every fault of every model in a repository, as `model: what is wrong`.

    Raises:
        UsageError: there is no repository.
        MissingDependencyError: tritonclient is absent.
    """
    if not repository.is_dir():
        raise UsageError(f"{repository} is not a folder. Name a Triton model repository.")
    models = sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not models:
        raise UsageError(f"{repository} holds no models. Name a Triton model repository.")
    return [f"{model.name}: {fault}" for model in models for fault in lint_model(model)]


def lint_model(folder: Path) -> list[str]:
    """Every fault of one model's folder."""
    try:
        config = read_config(folder / CONFIG)
    except IntegrityError as error:
        return [str(error)]
    checks = (_names, _tensors, _batching, _files, _warmups)
    return [fault for check in checks for fault in check(folder, config)]


def read_config(path: Path) -> Any:
    """Parse a configuration against Triton's schema; an unknown field is an error.

    Raises:
        IntegrityError: the file is absent or does not follow the schema.
        MissingDependencyError: tritonclient is absent.
    """
    message = schema().ModelConfig()
    try:
        from google.protobuf import text_format
    except ImportError as error:
        raise missing(error, "triton", "A Triton model repository") from error
    try:
        return text_format.Parse(path.read_bytes(), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise IntegrityError(f"{path.name} cannot be read: {error}") from error


def _names(folder: Path, config: Any) -> Iterator[str]:
    if config.name and config.name != folder.name:
        yield f"the configuration names it {config.name!r}; the folder's name is what clients use"
    if not config.platform and not config.backend:
        yield "neither platform nor backend is given"


def _tensors(_folder: Path, config: Any) -> Iterator[str]:
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield f"it has no {kind}s"
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield f"{kind} {name!r} stands there {count} times; Triton takes it, and then waits for both"
        for tensor in tensors:
            if tensor.data_type == 0:
                yield f"{kind} {tensor.name!r} has no data type"
            if any(dim == 0 or dim < -1 for dim in tensor.dims):
                yield f"{kind} {tensor.name!r} has the dims {list(tensor.dims)}; expected positive sizes, or -1"
            if not tensor.dims and config.max_batch_size == 0:
                yield f"{kind} {tensor.name!r} has no dims, which needs a max_batch_size"


def _batching(_folder: Path, config: Any) -> Iterator[str]:
    if not config.HasField("dynamic_batching"):
        return
    if config.max_batch_size == 0:
        yield "dynamic batching with max_batch_size 0: Triton accepts it and batches nothing"
        return
    for size in config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            yield f"preferred batch size {size} is outside 1 to max_batch_size {config.max_batch_size}"


def _files(folder: Path, config: Any) -> Iterator[str]:
    versions = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "warmup")
    wrong = [path.name for path in versions if not path.name.isdecimal() or path.name.startswith("0")]
    if wrong:
        yield f"folders that are no version: {', '.join(wrong)}; Triton passes over them in silence"
    numbered = [path for path in versions if path.name not in wrong]
    if not numbered:
        yield "it has no version folder, such as 1/"
    names = [config.default_model_filename, *config.cc_model_filenames.values()]
    for name in filter(None, names):
        if len(PurePosixPath(name).parts) != 1 or name in {".", ".."} or "\\" in name:
            yield f"the file name {name!r} is a path: Triton would look outside the version folder"
    plain = [name for name in names if name and len(PurePosixPath(name).parts) == 1]
    for version in numbered:
        # Where plans are listed by compute capability, the default is a fallback that need not exist.
        needed = list(config.cc_model_filenames.values()) or plain[:1]
        for name in needed:
            if len(PurePosixPath(name).parts) == 1 and not (version / name).exists():
                yield f"version {version.name} has no {name}"


def _warmups(folder: Path, config: Any) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in config.input}
    types = schema().DataType
    for warmup in config.model_warmup:
        if absent := sorted(set(inputs) - set(warmup.inputs)):
            yield f"warm-up {warmup.name!r} gives no {', '.join(absent)}"
        for name, value in warmup.inputs.items():
            if name not in inputs:
                yield f"warm-up {warmup.name!r} gives {name!r}, which is no input"
                continue
            if value.data_type != inputs[name].data_type:
                yield f"warm-up {warmup.name!r} gives {name!r} as {types.Name(value.data_type)}"
            if not _fits(list(value.dims), list(inputs[name].dims)):
                yield f"warm-up {warmup.name!r} gives {name!r} the dims {list(value.dims)}"
            if value.WhichOneof("input_data_type") == "input_data_file":
                yield from _warmup_file(folder / "warmup" / value.input_data_file, warmup.name, value)


def _fits(given: list[int], declared: list[int]) -> bool:
    return len(given) == len(declared) and all(
        want in {-1, size} and size > 0 for size, want in zip(given, declared, strict=True)
    )


def _warmup_file(path: Path, warmup: str, value: Any) -> Iterator[str]:
    if not path.is_file():
        yield f"warm-up {warmup!r} reads {path.name}, which is not in warmup/"
        return
    size = _BYTES.get(schema().DataType.Name(value.data_type))
    if size is not None and path.stat().st_size != size * math.prod(value.dims):
        expected = size * math.prod(value.dims)
        yield f"warm-up {warmup!r} reads {path.name} of {path.stat().st_size} bytes; its dims need {expected}"
