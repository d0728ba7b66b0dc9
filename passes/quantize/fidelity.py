"""How faithful a quantized model is: the median per-sample signal-to-noise ratio of its outputs.

The median over samples tells the truth where the ratio over whole tensors does not: a few samples with huge values
drown the noise of all others (measured on MiniLM: 27 dB over the tensor, 9 dB for the median token).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.passes.base import Arrays, Feeds, RunModel
from enginery.passes.calibration.exposed import save_exposed
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.quantize.context import QuantizeContext

Floats = npt.NDArray[np.floating[Any]]
CEILING = 120.0
"""dB; what equal outputs count as."""

SAMPLES = 32
"""About how many samples tell how faithful a model is; remedies are compared on the same ones."""

_FLOATS = frozenset({1, 10, 11, 16})
"""ONNX's numbers of float32, float16, float64 and bfloat16."""


@dataclass(frozen=True)
class Fidelity:
    """How close a model's outputs are to the float model's: SNR in dB of each sample, float64 [N]."""

    samples: Floats

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def worst(self) -> float:
        return float(self.samples.min())

    def gain_over(self, other: Fidelity) -> float:
        """By how many dB the same samples are better: the median of their differences.

        Medians of a few dozen samples move by half a dB where a sample in the middle changes places with another; what
        each sample gains scatters far less.
        """
        return float(np.median(self.samples - other.samples))


@dataclass(frozen=True)
class Reference:
    """The float model's outputs on some batches, and which of their positions are valid.

    Where no output is float, such as the index of the largest logit, the last float values before them are compared:
    an index is right or wrong, and does not say how near it was. They are found by `places`, since quantizing renames
    tensors: the first output of the node that reads them, and the number of the input.
    """

    feeds: tuple[Feeds, ...]
    outputs: tuple[Arrays, ...]
    masks: tuple[Mapping[str, Any], ...]
    places: tuple[tuple[str, int], ...] = ()

    @classmethod
    def record(cls, model: Path, context: QuantizeContext, batches: Iterable[Feeds] | None = None) -> Reference:
        """Run the float model on about `SAMPLES` samples of `batches`, or of those held out, as many of each."""
        opened = Calibrated.open(model, context.open_model, context.masks)
        places = tuple(_last_floats(opened.graph))
        run = _run_to(opened, places, context) if places else context.open_model(model, optimize=True)
        whole = tuple(context.held_out() if batches is None else batches)
        feeds = tuple(opened.first(each, -(-SAMPLES // len(whole))) for each in whole)
        outputs = tuple(_floats(run(each)) for each in feeds)
        tensors = _tensors_at(opened.graph, places)
        masks = tuple(
            {name: opened.mask(tensors.get(name, name), array.ndim, each) for name, array in found.items()}
            for each, found in zip(feeds, outputs, strict=True)
        )
        return cls(feeds, outputs, masks, places)

    def measure(self, model: Path, context: QuantizeContext) -> Fidelity:
        """Over all samples of all float outputs of the model."""
        if self.places:
            run = _run_to(Calibrated.open(model, context.open_model, context.masks), self.places, context)
        else:
            run = context.open_model(model)
        ratios: list[Floats] = []
        for feeds, expected, masks in zip(self.feeds, self.outputs, self.masks, strict=True):
            outputs = run(feeds)
            ratios += [sample_snr(array, outputs[name], masks[name]) for name, array in expected.items()]
        return Fidelity(np.concatenate(ratios))


def _last_floats(graph: Any) -> Iterator[tuple[str, int]]:
    """Where float values end on the way to the outputs of a ModelProto; nothing where an output has samples of them."""
    types = {value.name: value.type.tensor_type for value in (*graph.graph.value_info, *graph.graph.output)}
    floats = {name for name, each in types.items() if each.elem_type in _FLOATS}
    outputs = [value.name for value in graph.graph.output]
    if any(name in floats and len(types[name].shape.dim) for name in outputs):
        return
    producers = {name: node for node in graph.graph.node for name in node.output}
    seen, left = set(outputs), outputs
    while left:
        node = producers.get(left.pop())
        if node is None:
            continue
        for index, name in enumerate(node.input):
            if name in floats and name in producers:
                yield node.output[0], index
            elif name not in seen:
                seen.add(name)
                left.append(name)


def _tensors_at(graph: Any, places: Iterable[tuple[str, int]]) -> dict[str, str]:
    """The tensors that these inputs read, by a name that quantizing does not change."""
    readers = {node.output[0]: node for node in graph.graph.node if node.output}
    return {f"{reader}[{index}]": readers[reader].input[index] for reader, index in places}


def _run_to(opened: Calibrated, places: tuple[tuple[str, int], ...], context: QuantizeContext) -> RunModel:
    tensors = _tensors_at(opened.graph, places)
    path = context.workdir / f"{opened.model.stem}-last-floats.onnx"
    save_exposed(opened.graph, opened.model, path, tuple(dict.fromkeys(tensors.values())))
    run = context.open_model(path)
    path.unlink()

    def named(feeds: Feeds) -> Arrays:
        outputs = run(feeds)
        return {name: outputs[tensor] for name, tensor in tensors.items()}

    return named


def sample_snr(expected: Floats, found: Floats, mask: Any = None) -> Floats:
    """SNR in dB of each sample (index of the first axis), float64 [N].

    Equal infinities, such as hidden scores, are no noise; NaN, and an infinity in one place only, is nothing but noise.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        noise = np.square(np.where(expected == found, 0.0, expected.astype(np.float64) - found))
        signal = np.square(expected.astype(np.float64))
        if mask is not None:
            valid = np.expand_dims(mask, -1 if expected.ndim < 4 else 1)
            noise, signal = np.where(valid, noise, 0.0), np.where(valid, signal, 0.0)
        noise, signal = (part.reshape(len(part), -1).sum(axis=1) for part in (noise, signal))
        ratio = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(noise, 1e-30))
    return np.where(np.isnan(ratio), -CEILING, np.clip(ratio, -CEILING, CEILING))


def _floats(outputs: Arrays) -> Arrays:
    return {name: array for name, array in outputs.items() if array.dtype.kind == "f" and array.ndim > 0}


def median_snr(pairs: Iterable[tuple[Floats, Floats]]) -> float:
    """Median SNR in dB over the samples of (expected, found) pairs."""
    return float(np.median(np.concatenate([sample_snr(expected, found) for expected, found in pairs])))
