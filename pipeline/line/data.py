"""The data sets of a line, opened when a stage or a key first needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from enginery.errors import DataError
from enginery.pipeline.line.wiring import Wiring

if TYPE_CHECKING:
    from enginery.engines.base import Feeds
    from enginery.pipeline.comparison.validation import Score
    from enginery.pipeline.data import DataSet


class DataAccess(Wiring):
    @cached_property
    def evaluation(self) -> DataSet | None:
        return self._open_data("evaluation")

    @cached_property
    def calibration(self) -> DataSet | None:
        return self._open_data("calibration")

    @cached_property
    def training(self) -> DataSet | None:
        return self._open_data("training")

    def _open_data(self, name: str) -> DataSet | None:
        from enginery.pipeline.data import open_data

        data = getattr(self.recipe.data, name)
        if data is None:
            return None
        served = name != "training"
        return open_data(data, self.loaded.folder, self.recipe.inputs, self.recipe.dims, served=served)

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Digests of the data sets that the recipe names, by name."""
        found = {"evaluation": self.evaluation, "calibration": self.calibration, "training": self.training}
        return {name: data.digest() for name, data in found.items() if data is not None}

    def data_input(self, name: str) -> dict[str, str]:
        """The digest of one data set, for a key."""
        return {name: self.data_digests.get(name, "none")}

    def calibration_feeds(self) -> Callable[[], Iterable[Feeds]]:
        """Open the calibration inputs anew at each call.

        Raises:
            DataError: the recipe names none, and random data was not asked for.
        """
        data = self.calibration
        if data is not None:
            return lambda: (batch.inputs for batch in data.batches())
        if self.random_data:
            from enginery.passes.calibration import random_batches

            return random_batches(
                {spec.name: spec.shape for spec in self.inputs},
                {spec.name: spec.dtype for spec in self.inputs},
                {name: (dim.min, dim.opt, dim.max) for name, dim in self.dims.items()},
                seed=self.recipe.seed,
            )
        raise DataError(
            f"{self.recipe.name}: int8 needs calibration data and the recipe names none. Add `data.calibration` with "
            "real inputs; `--random-data` is for smoke tests, and its engines pass no gate."
        )

    def calibration_share(self) -> Callable[[], Iterable[Feeds]]:
        """The batches of `calibration_feeds` that this worker calibrates on."""
        feeds, (index, count) = self.calibration_feeds(), self.part
        return lambda: islice(feeds(), index - 1, None, count)

    def calibration_batches(self) -> int | None:
        """How many batches `calibration_share` gives, where that is known."""
        every = self.calibration.count() if self.calibration is not None else None
        index, count = self.part
        return None if every is None else len(range(index - 1, every, count))

    @property
    def has_calibration_data(self) -> bool:
        return self.calibration is not None or self.random_data

    def score(self) -> Callable[[], Score] | None:
        """Begins a measurement of the recipe's task metric, where there is one."""
        metric = self.recipe.metric
        if metric is None:
            return None
        from enginery.pipeline.data.metrics import get_metric

        return lambda: get_metric(metric, self.loaded.folder)

    @property
    def metric_config(self) -> Any:
        """What of the metric changes its figure; bounds are judged by the gates, and measure nothing anew."""
        metric = self.recipe.metric
        if metric is None:
            return None
        config = metric.model_dump(mode="json", include={"name", "python", "output"})
        if metric.python is not None:
            from enginery.pipeline.source.callables import Reference
            from enginery.pipeline.source.digest import code_facts

            config["code"] = code_facts(Reference.parse(metric.python, self.loaded.folder))
        return config
