"""How faithful a quantized model is: the median per-sample signal-to-noise ratio of its outputs.

The median over samples tells the truth where the ratio over whole tensors does not: a few samples with huge values
drown the noise of all others (measured on MiniLM: 27 dB over the tensor, 9 dB for the median token).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.passes.base import Arrays, Feeds
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.quantize.context import QuantizeContext

Floats = npt.NDArray[np.floating[Any]]
CEILING = 120.0
"""dB; what equal outputs count as."""

SAMPLES = 32
"""About how many samples tell how faithful a model is; remedies are compared on the same ones."""


@dataclass(frozen=True)
class Fidelity:
    """How close a model's outputs are to the float model's: SNR in dB, the median over samples and the worst sample."""

    median: float
    worst: float


@dataclass(frozen=True)
class Reference:
    """The float model's outputs on some batches, and which of their positions are valid."""

    feeds: tuple[Feeds, ...]
    outputs: tuple[Arrays, ...]
    masks: tuple[Mapping[str, Any], ...]

    @classmethod
    def record(cls, model: Path, context: QuantizeContext, batches: Iterable[Feeds] | None = None) -> Reference:
        """Run the float model on about `SAMPLES` samples of `batches`, or of those held out, as many of each."""
        opened = Calibrated.open(model, context.open_model, context.masks)
        run = context.open_model(model, optimize=True)
        whole = tuple(context.held_out() if batches is None else batches)
        feeds = tuple(opened.first(each, -(-SAMPLES // len(whole))) for each in whole)
        outputs = tuple(_floats(run(each)) for each in feeds)
        masks = tuple(
            {name: opened.mask(name, array.ndim, each) for name, array in found.items()}
            for each, found in zip(feeds, outputs, strict=True)
        )
        return cls(feeds, outputs, masks)

    def measure(self, model: Path, context: QuantizeContext) -> Fidelity:
        """Over all samples of all float outputs of the model."""
        run = context.open_model(model)
        ratios: list[Floats] = []
        for feeds, expected, masks in zip(self.feeds, self.outputs, self.masks, strict=True):
            outputs = run(feeds)
            ratios += [sample_snr(array, outputs[name], masks[name]) for name, array in expected.items()]
        found = np.concatenate(ratios)
        return Fidelity(float(np.median(found)), float(found.min()))


def sample_snr(expected: Floats, found: Floats, mask: Any = None) -> Floats:
    """SNR in dB of each sample (index of the first axis), float64 [N]. NaN in `found` counts as no signal at all."""
    noise = np.square(expected.astype(np.float64) - found)
    signal = np.square(expected.astype(np.float64))
    if mask is not None:
        weight = np.expand_dims(mask, -1 if expected.ndim < 4 else 1)
        noise, signal = noise * weight, signal * weight
    noise, signal = (part.reshape(len(part), -1).sum(axis=1) for part in (noise, signal))
    ratio = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(noise, 1e-30))
    return np.where(np.isfinite(ratio), np.clip(ratio, -CEILING, CEILING), -CEILING)


def _floats(outputs: Arrays) -> Arrays:
    return {name: array for name, array in outputs.items() if array.dtype.kind == "f" and array.ndim > 0}


def median_snr(pairs: Iterable[tuple[Floats, Floats]]) -> float:
    """Median SNR in dB over the samples of (expected, found) pairs."""
    return float(np.median(np.concatenate([sample_snr(expected, found) for expected, found in pairs])))
