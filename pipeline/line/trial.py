"""Trial: how fast the engine of a changed module is, measured in turns with the engine of the whole one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from enginery.engines.base import BuildSpec, Engine, Feeds, Session
from enginery.errors import EngineryError
from enginery.passes.base import OpenModel

if TYPE_CHECKING:
    import torch

SECONDS: Final = 0.5
"""For each trial."""

FEWEST: Final = 12
"""Rounds of a model that is slow."""

QUANTILE: Final = 0.1

CALIBRATION_BATCHES: Final = 8


@dataclass
class EngineTrials:
    """Exports modules, builds them for one engine and times them; use it in a `with` block, which owns the files.

    Attributes:
        engine: of the target that is asked for.
        spec: inputs, outputs, dimensions and engine options, as for a build.
        whole: the module that all others are compared with.
        example: one set of inputs at the optimal sizes.
        open_model: runs graphs, for calibration.
        batches: what int8 trials calibrate on; the example where there is no data.
        seed: of the order of turns.
    """

    engine: Engine
    spec: BuildSpec
    whole: torch.nn.Module
    example: Feeds
    open_model: OpenModel
    batches: Callable[[], Iterable[Feeds]] | None
    seed: int

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._generator = np.random.default_rng(self.seed)
        self._made = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def latency(self, module: torch.nn.Module, *, int8: bool = False) -> float | None:
        """Latency of the module's engine over the whole one's in float; None where it cannot be built."""
        try:
            model = self._optimized(module)
            return self._quantized(model, self._measured(model), ()) if int8 else self._against(model)
        except EngineryError:
            return None

    def int8(self, layer: str) -> float | None:
        """The same with this layer alone in int8; None where the target's policy leaves it in float."""
        try:
            return self._quantized(self._base, self._statistics, self._others(layer))
        except EngineryError:
            return None

    def _quantized(self, model: Path, statistics: Any, keep_float: tuple[str, ...]) -> float | None:
        from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model

        target = self._new("model.onnx")
        result = quantize_model(
            model, target, statistics, policy=get_policy(self.engine.policy),
            options=QuantizeOptions(passes=(), keep_float=keep_float), open_model=self.open_model,
            batches=self._calibration,
        )  # fmt: skip
        return self._against(target) if result.changed else None

    def _others(self, layer: str) -> tuple[str, ...]:
        """Patterns of the weights of all layers but this one; the graph names its nodes by them."""
        names = (name for name, _ in self.whole.named_parameters() if name.endswith(".weight"))
        return tuple(re.escape(name) for name in names if name != f"{layer}.weight")

    @cached_property
    def _base(self) -> Path:
        return self._optimized(self.whole)

    @cached_property
    def _session(self) -> Session:
        return self._open(self._base)

    @cached_property
    def _statistics(self) -> Any:
        return self._measured(self._base)

    def _measured(self, model: Path) -> Any:
        from enginery.passes.calibration import collect

        return collect(model, self._calibration, open_model=self.open_model)

    def _calibration(self) -> Iterator[Feeds]:
        return islice(iter(self.batches() if self.batches is not None else [self.example]), CALIBRATION_BATCHES)

    def _against(self, model: Path) -> float:
        from enginery.pipeline.turns import take_turns

        whole = self._session
        with self._open(model) as session:
            calls = [partial(each.run, self.example) for each in (session, whole)]
            seconds = take_turns(calls, self._generator, budget=SECONDS, least=FEWEST)
        # A low quantile of either: what else the machine does only ever adds time.
        low = np.quantile(seconds, QUANTILE, axis=0)
        return float(low[0] / low[1])

    def _optimized(self, module: torch.nn.Module) -> Path:
        """Exported, and through the passes of the target."""
        from enginery.passes.graph import default_passes
        from enginery.passes.sequence import run_graph_passes
        from enginery.pipeline.stages.export import FILE, export_module

        exported = self._new("")
        export_module(
            exported, module=module, example=self.example, inputs=self.spec.inputs, outputs=self.spec.outputs,
            dims=self.spec.dims, opset=None,
        )  # fmt: skip
        target = self._new("model.onnx")
        run_graph_passes(
            exported / FILE, target, default_passes(self.engine.target), open_model=self.open_model,
            feeds=[self.example], prove="end",
        )  # fmt: skip
        return target

    def _open(self, model: Path) -> Session:
        artifact = self.engine.build(model, self._new(""), self.spec)
        return self._stack.enter_context(self.engine.load(artifact, self.spec))

    def _new(self, file: str) -> Path:
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        return folder / file
