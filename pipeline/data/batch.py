"""One batch of data, and what every reader of data is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from enginery.engines.base import Arrays

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Inputs by name, and labels where the data has them: one per sample, or as the task metric wants them.

    `origin` says where the batch came from, for messages: a file, a range of lines.
    """

    inputs: Arrays
    labels: Labels | None = None
    origin: str = ""


class Reader(ABC):
    """Reads one kind of data. Opening it again gives the same batches.

    `when_empty` says what to do about data that gives no batch.
    """

    when_empty: ClassVar[str] = "It holds no sample."

    @abstractmethod
    def read(self) -> Iterator[Batch]:
        """Yield batches; at most a few are in memory at once."""

    def count(self) -> int | None:
        """How many batches there are, where that is known without reading them all; for progress alone."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the batches rest on (digests of files and code, versions), JSON-ready, without reading batches."""
