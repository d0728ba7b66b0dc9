"""What every stage of a line shares: the recipe's signature, the store, and the listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from enginery.engines import DimRange, TensorSpec
from enginery.pipeline.comparison.reference import spec_to_json
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.store import Result, Store
from enginery.pipeline.store.keys import make_key

if TYPE_CHECKING:
    from enginery.passes.base import OpenModel

MEMORY_BUDGET: Final = 2 << 30
BENCHMARK_SECONDS: Final = 6.0

BY_PRECISION: Final = frozenset({"bind", "sensitivity", "quantize", "compile", "validate", "benchmark"})
"""Stages whose result depends on options of the precision."""

LITERAL: Final = "enginery.engines.onnxruntime"
"""The module that runs graphs for passes, proofs and calibration."""


class Wiring:
    """One recipe, one store, one listener. Results are remembered, so a stage is looked up once.

    Args:
        loaded: the recipe.
        store: where results are kept.
        events: hears what happens.
        trust: whether a source may be loaded that can execute code.
        random_data: calibrate on noise where the recipe names no data.
        memory_budget: bytes that the tensors observed by calibration may take at once.
        statistics: a folder of statistics to use instead of calibrating.
        part: (K, N): calibrate on every Nth batch from the Kth on.
        benchmark_seconds: how long the speed is measured.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        store: Store,
        events: Events,
        *,
        trust: bool = False,
        random_data: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        statistics: Path | None = None,
        part: tuple[int, int] = (1, 1),
        benchmark_seconds: float = BENCHMARK_SECONDS,
    ) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.store = store
        self.events = events
        self.trust = trust
        self.random_data = random_data
        self.memory_budget = memory_budget
        self.given_statistics = statistics
        self.part = part
        self.benchmark_seconds = benchmark_seconds
        self.inputs = tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.recipe.inputs.items())
        self.declared = tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.recipe.outputs.items())
        self.valid = {name: tensor.valid for name, tensor in self.recipe.outputs.items() if tensor.valid is not None}
        self.dims = {name: DimRange(dim.min, dim.opt, dim.max) for name, dim in self.recipe.dims.items()}
        self.results: dict[StageName, Result] = {}

    def another(self) -> Self:
        """A line of the same recipe for another precision: a line remembers one result of each stage and mode."""
        line = copy(self)
        line.results = {stage: result for stage, result in self.results.items() if stage.stage not in BY_PRECISION}
        return line

    @cached_property
    def open_model(self) -> OpenModel:
        """Opens a graph to run it literally; given to passes, which know no engine."""
        return import_module(LITERAL).open_model

    @property
    def line(self) -> str:
        """Names the recipe in the store's history, so that "what changed" compares with its own last build."""
        return f"{self.recipe.name}-{digest_json(str(self.loaded.path))[:12]}"

    @property
    def signature(self) -> dict[str, Any]:
        """Inputs, declared outputs and dimensions, for keys."""
        return {
            "inputs": [spec_to_json(spec) for spec in self.inputs],
            "outputs": [spec_to_json(spec) for spec in self.declared],
            "dims": {name: [dim.min, dim.opt, dim.max] for name, dim in self.dims.items()},
        }

    def progress(self, stage: StageName, what: str) -> Callable[[int, int | None], None]:
        return lambda done, total: self.events.progress(stage, done, total, what)

    def obtain(
        self,
        stage: StageName,
        run: Callable[[Path], None],
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        code: Iterable[str],
        tools: Iterable[str],
    ) -> Result:
        """The stage's stored result; `run` makes it. See `keys.make_key` for what it depends on."""
        if stage not in self.results:
            key = make_key(stage.stage, config=config, inputs=inputs, code=code, tools=tools)
            self.results[stage] = self.store.obtain(stage, key, self.line, run, self.events)
        return self.results[stage]
