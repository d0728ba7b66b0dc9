"""The statistics of a graph: what calibration saw, free of any decision, in a file of their own.

On disk they are a folder with `statistics.json` (digests, counts, ranges) and `statistics.safetensors` (per-channel
figures and histograms).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from enginery.errors import StatisticsError
from enginery.passes.calibration.digest import data_digest
from enginery.passes.calibration.histogram import Histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics

FORMAT = 1
HEAD = "statistics.json"
_SCALARS = ("low", "high", "count", "batches", "low_sum", "high_sum", "axis", "finite", "masked")
_CHANNELS = ("channel_low", "channel_high", "channel_sum")
_HISTOGRAMS = ("histogram", "energy")


@dataclass(frozen=True)
class RangeChange:
    """A tensor whose range differs between two statistics. `ratio` is the wider absolute range over the narrower."""

    tensor: str
    before: tuple[float, float]
    after: tuple[float, float]
    ratio: float


@dataclass(frozen=True)
class StatisticsDiff:
    """How two statistics differ: tensors found in one only, and ranges that moved, the worst first."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    moved: tuple[RangeChange, ...]

    def __bool__(self) -> bool:
        return bool(self.only_first or self.only_second or self.moved)


@dataclass(frozen=True)
class Statistics:
    """What one or more calibration runs saw.

    Attributes:
        graph_digest: `digest.graph_digest` of the ONNX file that was run.
        batches: `digest.batch_digest` of every batch, as often as it was seen.
        samples: Number of samples: the sum of the batches' first dimensions.
        tensors: By tensor name.
        random: True when the data was random. No gate passes on such statistics.
        complete: False when the run was interrupted; `collect(resume=...)` goes on from there.
        masks: The inputs that marked valid positions.
    """

    graph_digest: str
    batches: tuple[str, ...]
    samples: int
    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict[str, TensorStatistics])
    random: bool = False
    complete: bool = True
    masks: tuple[str, ...] = ()

    @property
    def data_digest(self) -> str:
        """sha256 of the set of batches, whatever their order."""
        return data_digest(self.batches)

    def require_graph(self, digest: str) -> None:
        """Refuse statistics of another graph.

        Raises:
            StatisticsError: `digest` is not the digest of the graph that was calibrated.
        """
        if digest != self.graph_digest:
            raise StatisticsError(
                f"These statistics belong to graph {self.graph_digest[:12]}, the model given is {digest[:12]}. "
                "Calibrate this model, or give the model that was calibrated."
            )

    def merge(self, *others: Statistics) -> Statistics:
        """The statistics of all runs together; their order does not matter.

        Raises:
            StatisticsError: another graph, other masks, a batch that two of them have seen, or none at all.
        """
        parts = sorted((self, *others), key=lambda part: part.data_digest)
        for other in others:
            if other.graph_digest != self.graph_digest:
                raise StatisticsError(
                    f"Statistics of graph {self.graph_digest[:12]} cannot be merged with those of graph "
                    f"{other.graph_digest[:12]}. Let every worker calibrate the same recipe."
                )
            if other.masks != self.masks:
                raise StatisticsError(
                    f"Masks differ: {list(self.masks)} and {list(other.masks)}. Calibrate both with the same masks."
                )
        if not all(part.batches for part in parts):
            raise StatisticsError(
                "Statistics that were imported from a calibration cache saw no batches, and hold ranges alone: merging "
                "would drop the histograms and channels of the others. Merge what calibration runs measured."
            )
        twice = [batch for batch, times in Counter(b for part in parts for b in set(part.batches)).items() if times > 1]
        if twice:
            raise StatisticsError(
                f"{len(twice)} batches are in more than one of the statistics (first: {min(twice)}). "
                "Merging would count them twice; give each worker other data."
            )
        names = set.intersection(*(set(part.tensors) for part in parts))
        return replace(
            self,
            batches=tuple(sorted(batch for part in parts for batch in part.batches)),
            samples=sum(part.samples for part in parts),
            tensors={
                name: reduce(TensorStatistics.merge, (part.tensors[name] for part in parts)) for name in sorted(names)
            },
            random=any(part.random for part in parts),
            complete=all(part.complete for part in parts),
        )

    def diff(self, other: Statistics, *, tolerance: float = 0.1) -> StatisticsDiff:
        """What differs, by tensor. A range moved when its larger magnitude changed by more than `tolerance`."""
        moved = [
            RangeChange(name, (mine.low, mine.high), (theirs.low, theirs.high), ratio)
            for name, mine in self.tensors.items()
            if (theirs := other.tensors.get(name)) is not None and (ratio := _ratio(mine, theirs)) > 1 + tolerance
        ]
        return StatisticsDiff(
            only_first=tuple(sorted(set(self.tensors) - set(other.tensors))),
            only_second=tuple(sorted(set(other.tensors) - set(self.tensors))),
            moved=tuple(sorted(moved, key=lambda change: (-change.ratio, change.tensor))),
        )

    def save(self, folder: Path) -> None:
        """Write both files into `folder`, which is created. Equal statistics give equal bytes."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(self.tensors)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for index, name in enumerate(names):
            tensor = self.tensors[name]
            arrays |= {f"{index}.{key}": np.asarray(getattr(tensor, key), np.float64) for key in _CHANNELS}
            for key in _HISTOGRAMS:
                histogram: Histogram = getattr(tensor, key)
                arrays[f"{index}.{key}.bins"], arrays[f"{index}.{key}.counts"] = histogram.bins, histogram.counts
        payload = save(arrays)
        head: dict[str, Any] = {
            "format": FORMAT,
            "graph_digest": self.graph_digest,
            "data_digest": self.data_digest,
            "arrays_sha256": hashlib.sha256(payload).hexdigest(),
            "samples": self.samples,
            "random": self.random,
            "complete": self.complete,
            "masks": list(self.masks),
            "batches": list(self.batches),
            "tensors": {
                name: {key: getattr(self.tensors[name], key) for key in _SCALARS}
                | {key: bool(getattr(self.tensors[name], key)) for key in _HISTOGRAMS}
                for name in names
            },
        }
        (folder / "statistics.safetensors").write_bytes(payload)
        (folder / HEAD).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote into `folder`, or into `statistics` in it.

        Raises:
            StatisticsError: a file is missing, damaged or of another format.
        """
        from safetensors.numpy import load

        folder = statistics_folder(folder)
        try:
            head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
            payload = (folder / "statistics.safetensors").read_bytes()
        except (OSError, ValueError) as error:
            raise StatisticsError(
                f"{folder} holds no readable statistics ({error}). Expected statistics.json and "
                "statistics.safetensors; run `enginery calibrate`."
            ) from error
        found = head.get("format") if isinstance(head, dict) else None
        if found != FORMAT:
            raise StatisticsError(f"{folder} has format {found}; this version reads {FORMAT}. Calibrate again.")
        try:
            if hashlib.sha256(payload).hexdigest() != head["arrays_sha256"]:
                raise StatisticsError(f"{folder}/statistics.safetensors does not match its digest. Calibrate again.")
            return cls._from_parts(head, load(payload))
        except (KeyError, TypeError, AttributeError) as error:
            raise StatisticsError(
                f"{folder}/{HEAD} is not as a calibration writes it ({type(error).__name__}: {error}). Calibrate again."
            ) from error

    @classmethod
    def _from_parts(cls, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        tensors = {
            name: _read_tensor(entry, arrays, index) for index, (name, entry) in enumerate(head["tensors"].items())
        }
        return cls(
            graph_digest=head["graph_digest"],
            batches=tuple(head["batches"]),
            samples=head["samples"],
            tensors=tensors,
            random=head["random"],
            complete=head["complete"],
            masks=tuple(head["masks"]),
        )


def statistics_folder(folder: Path) -> Path:
    """`folder`, or `statistics` in it: a calibration delivers a folder that holds its statistics so."""
    inner = folder / "statistics"
    return inner if (inner / HEAD).is_file() and not (folder / HEAD).is_file() else folder


def _read_tensor(entry: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], index: int) -> TensorStatistics:
    values: dict[str, Any] = {key: entry[key] for key in _SCALARS}
    values |= {key: arrays[f"{index}.{key}"] for key in _CHANNELS}
    for key in _HISTOGRAMS:
        values[key] = Histogram(arrays[f"{index}.{key}.bins"], arrays[f"{index}.{key}.counts"])
    return TensorStatistics(**values)


def _ratio(first: TensorStatistics, second: TensorStatistics) -> float:
    reach = sorted(max(abs(tensor.low), abs(tensor.high)) for tensor in (first, second))
    return reach[1] / reach[0] if reach[0] > 0 else (1.0 if reach[1] == 0 else float("inf"))
