"""How far two answers to the same inputs are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.errors import PassError

ROUNDING = 2.0**-24
"""Half the distance from 1 to the next float32."""


@dataclass(frozen=True)
class Difference:
    """The largest error of one output over all feeds; `relative` is to the output's largest absolute value."""

    output: str
    absolute: float
    relative: float

    def within(self, tolerance: float) -> bool:
        """Whether the relative error is at most `tolerance`, or, where any error is allowed, one rounding of float32.

        A sigmoid of -6 has a scale of 0.002 and rounding errors of the values around 1 that it is computed from.
        """
        return self.relative <= tolerance or (tolerance > 0 and self.absolute <= ROUNDING)


def measure(name: str, expected: Any, actual: Any) -> Difference:
    """The error of one output. NaN where NaN was expected counts as equal, and so do equal infinities.

    Sequences and maps (outputs that are no tensors) must be equal element by element.

    Raises:
        PassError: shape or dtype differ.
    """
    if not isinstance(expected, np.ndarray):
        return _measure_other(name, expected, actual)
    if not isinstance(actual, np.ndarray) or expected.shape != actual.shape or expected.dtype != actual.dtype:
        raise PassError(
            f"Output {name!r} was {expected.dtype}{list(expected.shape)} and is now "
            f"{getattr(actual, 'dtype', type(actual).__name__)}{list(getattr(actual, 'shape', ()))}."
        )
    if expected.dtype.kind not in "fc" and expected.dtype.name != "bfloat16":
        equal = bool(np.array_equal(expected, actual))
        return Difference(name, 0.0, 0.0) if equal else Difference(name, float("inf"), float("inf"))
    return _measure_floats(name, expected.astype(np.float64), actual.astype(np.float64))


def worst_differences(answers: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[Difference, ...]:
    """The largest error of each output over pairs of expected and actual answers.

    Raises:
        PassError: an output is absent, or its shape or dtype differs.
    """
    worst: dict[str, Difference] = {}
    for expected, actual in answers:
        for name, value in expected.items():
            if name not in actual:
                raise PassError(f"Output {name!r} is gone.")
            difference = measure(name, value, actual[name])
            if name not in worst or difference.relative > worst[name].relative:
                worst[name] = difference
    return tuple(worst.values())


def _measure_floats(name: str, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Difference:
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    if same.all():
        return Difference(name, 0.0, 0.0)
    with np.errstate(invalid="ignore"):
        error = float(np.abs(np.where(same, 0.0, expected - actual)).max())
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    relative = error / scale if scale else float("inf")
    return Difference(name, error, relative if np.isfinite(error) else float("inf"))


def _measure_other(name: str, expected: Any, actual: Any) -> Difference:
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):  # pyright: ignore[reportUnknownArgumentType]
        parts = [measure(name, one, other) for one, other in zip(expected, actual, strict=True)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return max(parts, key=lambda part: part.relative, default=Difference(name, 0.0, 0.0))
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():  # pyright: ignore[reportUnknownMemberType]
        parts = [measure(name, expected[key], actual[key]) for key in expected]  # pyright: ignore[reportUnknownVariableType]
        return max(parts, key=lambda part: part.relative, default=Difference(name, 0.0, 0.0))
    equal = bool(expected == actual)
    return Difference(name, 0.0 if equal else float("inf"), 0.0 if equal else float("inf"))
