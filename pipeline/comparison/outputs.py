"""How far an engine's answers are from the original's, output by output, in memory that does not grow with samples.

Arrays are added case by case; the figures are read at the end:

- relative: the largest absolute error over the output's scale (the largest absolute value of the original).
- cosine: per sample, its mean and its minimum.
- SNR in dB: per sample, its median. A tensor-wide SNR hides a ruined sample behind loud ones: it read 27 dB where the
  median per-sample SNR read 9 dB.
- top1: how often the largest element of the last dimension is the same one.
- equal: integers and booleans: the fraction of equal elements.

A *sample* is one row over the leading dynamic dimensions: one image of [batch, 1000], one token of [batch, seq, 512].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from enginery.engines.base import Arrays, Feeds, TensorSpec

NEAR_ZERO: Final = 1e-6
"""An output whose scale is below this proves nothing: any absolute tolerance passes on it."""

SNR_LOW: Final = -50.0
SNR_HIGH: Final = 200.0
SNR_STEP: Final = 0.01
CHUNK_ELEMENTS: Final = 1 << 22

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OutputFigures:
    """The error figures of one output. Figures that do not apply are None."""

    name: str
    samples: int
    scale: float
    max_abs: float
    mean_abs: float
    relative: float | None
    cosine_mean: float | None
    cosine_min: float | None
    snr: float | None
    top1: float | None
    equal: float | None
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OutputFigures:
        fields: dict[str, Any] = {**value, "faults": tuple(value["faults"])}
        return cls(**fields)


@dataclass(frozen=True)
class Comparison:
    """The comparison of an engine with the original under one relative tolerance; true when it holds."""

    outputs: tuple[OutputFigures, ...]
    tolerance: float

    def __bool__(self) -> bool:
        return bool(self.outputs) and all(self.holds(output) for output in self.outputs)

    def holds(self, output: OutputFigures) -> bool:
        if output.faults or not output.samples:
            return False
        if output.equal is not None:
            return output.equal == 1.0
        return output.scale >= NEAR_ZERO and output.relative is not None and output.relative <= self.tolerance

    @property
    def smallest_tolerance(self) -> float | None:
        """The smallest relative tolerance that would have passed, or None when none would."""
        if not self.outputs or not all(Comparison((output,), float("inf")) for output in self.outputs):
            return None
        return max((output.relative for output in self.outputs if output.relative is not None), default=0.0)


def compare(
    reference: Feeds,
    actual: Feeds,
    specs: Sequence[TensorSpec],
    tolerance: float,
    *,
    inputs: Feeds | None = None,
    valid: Mapping[str, str] | None = None,
    input_specs: Sequence[TensorSpec] = (),
) -> Comparison:
    """Compare one set of outputs; see `Comparer` for the arguments."""
    comparer = Comparer(specs, input_specs, valid or {})
    comparer.add(reference, actual, inputs or {})
    return Comparison(comparer.figures(), tolerance)


class Comparer:
    """Accumulates the figures of several outputs over any number of cases.

    Args:
        specs: the declared outputs; an output that is absent from what the engine returns is a fault.
        input_specs: the declared inputs, for the names of a mask's dimensions.
        valid: output name -> name of the input that masks its valid positions (nonzero = valid).
    """

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        input_specs: Sequence[TensorSpec] = (),
        valid: Mapping[str, str] | None = None,
    ) -> None:
        self._valid = dict(valid or {})
        self._inputs = {spec.name: spec for spec in input_specs}
        self._outputs = [_Output(spec) for spec in specs]

    def add(self, reference: Feeds, actual: Feeds, inputs: Feeds) -> None:
        for output in self._outputs:
            name = output.spec.name
            if name not in actual:
                output.fault("is absent from what the engine returned")
            elif name not in reference:
                output.fault("is absent from what the original returned")
            else:
                output.add(np.asarray(reference[name]), np.asarray(actual[name]), self._mask(output.spec, inputs))

    def figures(self) -> tuple[OutputFigures, ...]:
        return tuple(output.figures() for output in self._outputs)

    def _mask(self, spec: TensorSpec, inputs: Feeds) -> Array | None:
        """The mask of valid positions, shaped to broadcast over the output."""
        name = self._valid.get(spec.name)
        if name is None:
            return None
        shared = [dim for dim in self._inputs[name].shape if dim in spec.shape]
        mask = np.asarray(inputs[name]) != 0
        drop = tuple(axis for axis, dim in enumerate(self._inputs[name].shape) if dim not in spec.shape)
        mask = mask.any(axis=drop) if drop else mask
        order = sorted(range(len(shared)), key=lambda axis: spec.shape.index(shared[axis]))
        sizes = [1] * len(spec.shape)
        for axis in order:
            sizes[spec.shape.index(shared[axis])] = mask.shape[axis]
        return mask.transpose(order).reshape(sizes)


@dataclass
class _Output:
    spec: TensorSpec
    samples: int = 0
    elements: int = 0
    scale: float = 0.0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    cosine_sum: float = 0.0
    cosine_min: float = float("inf")
    top1: int = 0
    equal: int = 0
    faults: list[str] = field(default_factory=list[str])
    histogram: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(round((SNR_HIGH - SNR_LOW) / SNR_STEP) + 1, np.int64)
    )

    @property
    def is_float(self) -> bool:
        return self.spec.dtype.startswith("float")

    @property
    def row_dims(self) -> int:
        """How many leading dimensions count samples; what follows is one sample's values."""
        rank = len(self.spec.shape)
        named = next((axis for axis, dim in enumerate(self.spec.shape) if isinstance(dim, int)), rank)
        return max(min(max(named, 1), rank - 1), 0)

    @property
    def has_top1(self) -> bool:
        last = self.spec.shape[-1] if self.spec.shape else 0
        return self.is_float and len(self.spec.shape) > 1 and self.row_dims == len(self.spec.shape) - 1 and last != 1

    def fault(self, text: str) -> None:
        if text not in self.faults and len(self.faults) < 8:
            self.faults.append(text)

    def add(self, reference: Array, actual: Array, mask: Array | None) -> None:
        if actual.shape != reference.shape:
            self.fault(f"has shape {list(actual.shape)} where the original's has {list(reference.shape)}")
            return
        if actual.dtype != np.dtype(self.spec.dtype):
            self.fault(f"has dtype {actual.dtype}; declared: {self.spec.dtype}")
            return
        rows = int(np.prod(reference.shape[: self.row_dims], dtype=np.int64))
        valid = None if mask is None else np.broadcast_to(mask, reference.shape).reshape(rows, -1)
        left, right = reference.reshape(rows, -1), actual.reshape(rows, -1)
        step = max(1, CHUNK_ELEMENTS // max(1, left.shape[1]))
        for start in range(0, rows, step):
            chosen = slice(start, start + step)
            self._add_rows(left[chosen], right[chosen], None if valid is None else valid[chosen])

    def _add_rows(self, left: Array, right: Array, valid: Array | None) -> None:
        if valid is not None:
            keep = valid.any(axis=1)
            left, right, valid = left[keep], right[keep], valid[keep]
        if not left.size:
            return
        self.samples += len(left)
        self.elements += int(left.size if valid is None else valid.sum())
        if not self.is_float:
            same = left == right
            self.equal += int(same.sum() if valid is None else (same & valid).sum())
            return
        self._add_floats(left.astype(np.float64), right.astype(np.float64), valid)

    def _add_floats(self, left: Array, right: Array, valid: Array | None) -> None:
        if valid is not None:
            left, right = np.where(valid, left, 0.0), np.where(valid, right, 0.0)
        for array, whose in ((left, "the original"), (right, "the engine")):
            wrong = int(np.count_nonzero(~np.isfinite(array)))
            if wrong:
                self.fault(f"has {wrong} values that are NaN or infinite, from {whose}")
        if self.faults:
            return
        error = np.abs(right - left)
        self.scale = max(self.scale, float(np.abs(left).max()))
        self.max_abs = max(self.max_abs, float(error.max()))
        self.sum_abs += float(error.sum())
        cosine = _cosines(left, right)
        self.cosine_sum += float(cosine.sum())
        self.cosine_min = min(self.cosine_min, float(cosine.min()))
        bins = np.rint((_snr(left, error) - SNR_LOW) / SNR_STEP).astype(np.int64)
        self.histogram += np.bincount(bins, minlength=len(self.histogram))
        if self.has_top1:
            self.top1 += int(np.count_nonzero(left.argmax(axis=1) == right.argmax(axis=1)))

    def figures(self) -> OutputFigures:
        measured = self.samples > 0 and not self.faults
        float_ = self.is_float and measured
        return OutputFigures(
            name=self.spec.name,
            samples=self.samples,
            scale=self.scale,
            max_abs=self.max_abs,
            mean_abs=self.sum_abs / self.elements if self.elements else 0.0,
            relative=self.max_abs / self.scale if float_ and self.scale > 0 else None,
            cosine_mean=self.cosine_sum / self.samples if float_ else None,
            cosine_min=self.cosine_min if float_ else None,
            snr=self._median_snr() if float_ else None,
            top1=self.top1 / self.samples if float_ and self.has_top1 else None,
            equal=self.equal / self.elements if measured and not self.is_float else None,
            faults=tuple(self.faults),
        )

    def _median_snr(self) -> float:
        """The lower median, to the width of a bin: one bad half of the samples is not averaged away."""
        cumulative = np.cumsum(self.histogram)
        return round(SNR_LOW + SNR_STEP * int(np.searchsorted(cumulative, (cumulative[-1] + 1) // 2)), 2)


def _cosines(left: Array, right: Array) -> Array:
    """Row-wise cosine; two zero rows agree (1), a zero row and another do not (0)."""
    norms = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    product = norms[0] * norms[1]
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    dots = np.einsum("ij,ij->i", left, right)
    cosine = np.divide(dots, product, out=both_zero.astype(np.float64), where=product > 0)
    return np.clip(cosine, -1.0, 1.0)


def _snr(left: Array, error: Array) -> Array:
    """Row-wise 10·log10(signal energy / error energy), in dB, kept within the histogram's range."""
    signal = np.einsum("ij,ij->i", left, left)
    noise = np.einsum("ij,ij->i", error, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 10 * np.log10(signal / noise)
    value = np.where(noise == 0, SNR_HIGH, np.where(signal == 0, SNR_LOW, value))
    return np.clip(value, SNR_LOW, SNR_HIGH)


def check_declared(outputs: Arrays, specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> list[str]:
    """What is wrong with outputs by themselves: absent, not finite, another dtype or shape than declared."""
    faults: list[str] = []
    for spec in specs:
        if spec.name not in outputs:
            faults.append(f"output {spec.name!r} is absent")
            continue
        array = outputs[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            faults.append(f"output {spec.name!r} has dtype {array.dtype}; declared: {spec.dtype}")
        expected = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape]
        fits = array.ndim == len(expected) and all(
            isinstance(want, str) or size == want for size, want in zip(array.shape, expected, strict=True)
        )
        if not fits:
            faults.append(f"output {spec.name!r} has shape {list(array.shape)}; expected {expected}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            faults.append(f"output {spec.name!r} holds NaN or infinite values")
    return faults
