"""A compute node as a plain matrix product, so that linear layers and convolutions are treated alike.

A node computes, for each of its G groups, [N, K] x [K, M]: K runs over input channels and kernel positions, M over the
group's output channels. A linear layer has one group; a depthwise convolution has one per channel.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.passes.base import Feeds
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.weights import groups, output_axis, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]


def matrix_of(node: gs.Node, weight: Floats | None = None) -> Floats:
    """The weight (or another array of its shape) as [G, K, M]."""
    array = values(weight_of(node)) if weight is None else weight
    if node.op != "Conv":
        return (array.T if output_axis(node) == 0 else array)[None]
    count = groups(node)
    return array.reshape(count, array.shape[0] // count, -1).transpose(0, 2, 1)


def weight_from(node: gs.Node, matrix: Floats) -> Floats:
    """The inverse of `matrix_of`: a weight in the node's own layout."""
    if node.op != "Conv":
        return matrix[0].T if output_axis(node) == 0 else matrix[0]
    return matrix.transpose(0, 2, 1).reshape(weight_of(node).shape)


def channels_of(node: gs.Node) -> npt.NDArray[np.int64]:
    """The input channel that each row of `matrix_of` multiplies, int64 [G, K]."""
    matrix = matrix_of(node)
    count, rows = matrix.shape[:2]
    if node.op != "Conv":
        return np.arange(rows)[None]
    kernel = int(np.prod(weight_of(node).shape[2:]))
    return np.arange(count * rows).reshape(count, rows) // kernel


def linear_users(nodes: Iterable[gs.Node], tensors: Mapping[str, TensorStatistics]) -> dict[str, list[gs.Node]]:
    """The linear layers among `nodes` by the name of the tensor that they read, where its channels are known."""
    users: dict[str, list[gs.Node]] = {}
    for node in nodes:
        if node.op in ("MatMul", "Gemm") and tensors[node.inputs[0].name].channel_low.size:
            users.setdefault(node.inputs[0].name, []).append(node)
    return users


def is_plain(node: gs.Node) -> bool:
    """Whether `rows_of` understands the node: convolutions with explicit padding, all linear layers."""
    return node.op != "Conv" or node.attrs.get("auto_pad", "NOTSET") == "NOTSET"


def rows_of(node: gs.Node, data: Floats, chosen: Any) -> Floats:
    """Some rows of the data as the matrix product sees it, [G, n, K].

    `chosen(count)` gives the indices of the rows to take out of `count`.
    """
    if node.op != "Conv":
        flat = data.reshape(-1, data.shape[-1])
        return flat[chosen(len(flat))][None]
    windows = _windows(node, data)
    places = windows.shape[:1] + windows.shape[2 : windows.ndim // 2 + 1]
    index = np.unravel_index(chosen(int(np.prod(places))), places)
    patches = windows[(index[0], slice(None), *index[1:])]
    count = groups(node)
    return patches.reshape(len(patches), count, -1).transpose(1, 0, 2)


def _windows(node: gs.Node, data: Floats) -> Floats:
    """Every patch that the convolution multiplies: [N, C, *output positions, *kernel], a view of the padded data."""
    kernel = weight_of(node).shape[2:]
    rank = len(kernel)
    strides, dilations = node.attrs.get("strides", [1] * rank), node.attrs.get("dilations", [1] * rank)
    pads = node.attrs.get("pads", [0] * (2 * rank))
    padded = np.pad(data, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
    steps = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    return windows[(*steps, *(slice(None, None, dilation) for dilation in dilations))]


SPREAD = 4
"""Rows to draw from, for each one that is drawn: neighbours in one sample are alike."""


def sample_rows(
    model: Calibrated,
    nodes: Sequence[gs.Node],
    batches: Iterable[Feeds],
    *,
    rows: int,
    seed: int,
    whole: bool = False,
) -> dict[str, Floats]:
    """About `rows` random rows of each node's data input, [G, n, K], by the name of the node's first output.

    The choice depends on seed, batch and name only, so that two models of one shape are sampled at the same places.
    Padded positions are left out of linear layers. Of each batch only as many samples are run as most nodes need, which
    leaves fewer rows to layers that see one row per sample; `whole` runs all.
    """
    names = {node.outputs[0].name: node.inputs[0].name for node in nodes}
    run = model.expose(model.model.with_name("sampled.onnx"), sorted(set(names.values())))
    all_batches = list(batches)
    share = max(1, -(-rows // max(1, len(all_batches))))
    found: dict[str, list[Floats]] = {name: [] for name in names}
    samples = 0
    for index, each in enumerate(all_batches):
        feeds = model.first(each, samples) if samples else each
        outputs = run(feeds)
        places: list[float] = []
        for node in nodes:
            name = node.outputs[0].name
            data = outputs[names[name]]
            choice = _Choice(share, (seed, index), _valid_rows(model, node, data, feeds))
            found[name].append(rows_of(node, data, choice))
            places.append(choice.places / max(1, len(data)))
        if not whole:
            samples = samples or math.ceil(SPREAD * share / max(1.0, statistics.median(places)))
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


class _Choice:
    """Picks a share of the valid rows, and tells how many of them there were."""

    def __init__(self, share: int, seed: Sequence[int], valid: npt.NDArray[np.bool_] | None) -> None:
        self.places = 0
        self._share = share
        self._rng = np.random.default_rng(seed)
        self._valid = valid

    def __call__(self, count: int) -> npt.NDArray[np.int64]:
        places = np.arange(count) if self._valid is None else np.flatnonzero(self._valid)
        self.places = len(places)
        return np.sort(self._rng.choice(places, min(self._share, len(places)), replace=False))


def _valid_rows(
    model: Calibrated, node: gs.Node, data: Floats, feeds: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.bool_] | None:
    if node.op == "Conv":
        return None
    mask = model.mask(node.inputs[0].name, data.ndim, feeds)
    return None if mask is None else np.broadcast_to(mask, data.shape[:-1]).reshape(-1)
