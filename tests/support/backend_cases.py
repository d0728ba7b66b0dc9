"""The ONNX project's own backend test cases: models with inputs and the outputs that every runtime must give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Values = Sequence[Any]


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    data: tuple[tuple[Values, Values], ...]
    rtol: float
    atol: float


@cache
def cases() -> dict[str, Case]:
    """Every case inside the `onnx` package, by name; those that would be downloaded are left out."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, Case] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases of overflow and division by zero warn while they are made
        for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
            for given in load_model_tests(kind=kind):
                model = given.model if given.model is not None else onnx.load(Path(given.model_dir) / "model.onnx")
                data = given.data_sets if given.data_sets is not None else list(_stored(model, Path(given.model_dir)))
                found[given.name] = Case(given.name, model, tuple(data), given.rtol, given.atol)
    return found


def _stored(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[Values, Values]]:
    for data in sorted(folder.glob("test_data_set_*")):
        yield (
            [
                _read(data / f"input_{i}.pb", value)
                for i, value in enumerate(model.graph.input)
                if (data / f"input_{i}.pb").exists()
            ],
            [_read(data / f"output_{i}.pb", value) for i, value in enumerate(model.graph.output)],
        )


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    if value.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if value.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def agree(expected: Any, actual: Any, case: Case) -> bool:
    """Whether an output is what the case demands, by the case's own tolerances."""
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(agree(e, a, case) for e, a in zip(expected, actual, strict=True))
    if expected is None or actual is None:
        return expected is actual
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.dtype.kind in "OUS":
        return expected.astype(str).tolist() == actual.astype(str).tolist()
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    one, other = (
        np.atleast_1d(array).astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        for array in (expected, actual)
    )
    return bool(np.allclose(one, other, rtol=case.rtol, atol=case.atol, equal_nan=True))
