"""What real inputs say of a model that does not say it itself: the arrays of an .npz file, or of a folder of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enginery.errors import DataError, UsageError
from enginery.pipeline.scaffold.draft import Input

BATCH = "batch"


def inputs_of(data: Path, takes: Mapping[str, bool]) -> tuple[Input, ...]:
    """An input for every array that the model takes, its samples along the first axis.

    An axis whose size differs between the files gets a name, and axes of other arrays that differ likewise share it.

    Args:
        data: an .npz file, or a folder of them.
        takes: the model's arguments, and whether each is needed; empty where they are not known.

    Raises:
        UsageError: the data holds no array, one without samples, or not all that the model needs.
    """
    from enginery.pipeline.data.npz import npz_files, npz_shapes

    try:
        files = [npz_shapes(path) for path in npz_files(data)]
    except DataError as error:
        raise UsageError(str(error)) from error
    names = [name for name in (files[0] if files else ()) if not takes or name in takes]
    absent = [name for name, needed in takes.items() if needed and name not in names]
    if absent or not names:
        held = ", ".join(files[0]) if files else "nothing"
        wanted = ", ".join(absent) or "one array for each input"
        raise UsageError(f"{data} holds {held}; expected {wanted}. Name the arrays after the model's inputs.")
    shared: dict[tuple[int, ...], str] = {}
    return tuple(_input(name, [file[name] for file in files if name in file], shared) for name in names)


def _input(name: str, seen: list[tuple[str, tuple[int, ...]]], shared: dict[tuple[int, ...], str]) -> Input:
    dtype, shape = seen[0]
    if not shape or any(len(other) != len(shape) for _, other in seen):
        raise UsageError(
            f"The array {name!r} has no axis of samples, or not always the same axes. Give --input for it."
        )
    dims: list[int | str] = [BATCH]
    for axis in range(1, len(shape)):
        sizes = tuple(other[axis] for _, other in seen)
        dims.append(sizes[0] if len(set(sizes)) == 1 else shared.setdefault(sizes, f"{name}_{axis}"))
    return Input(name, dtype, tuple(dims))
