"""The protocol of an observer."""

from __future__ import annotations

from typing import ClassVar, Protocol

from enginery.errors import StatisticsError
from enginery.passes.calibration.tensor_statistics import TensorStatistics


class Observer(Protocol):
    """Reads the range that quantization should represent; `histograms` says whether from histograms."""

    histograms: ClassVar[bool]

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        """(low, high), low <= high. Values outside saturate.

        Raises:
            StatisticsError: the observer needs histograms and the statistics have none.
        """
        ...


def require_histogram(tensor: TensorStatistics, observer: str) -> None:
    """Refuse statistics without a histogram."""
    if not tensor.histogram:
        raise StatisticsError(
            f"Observer {observer!r} reads histograms and these statistics have none: they were collected with ranges "
            "only, or the tensor was rescaled since. Calibrate with histograms, or use `minmax`."
        )
