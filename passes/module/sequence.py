"""Runs module passes one after the other, and checks and measures the module after each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginery.errors import EngineryError, PassError
from enginery.passes.base import ModuleContext, ModulePass, PassResult
from enginery.passes.module.figures import Figures, figures

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModulePassRecord:
    """What one pass of the sequence did.

    `seconds` and `latency` (of the module after the pass, over the original's; None: not measured) are timings;
    everything else repeats with the same seed.
    """

    text: str
    result: PassResult
    before: Figures
    after: Figures
    metric_before: float | None
    metric_after: float | None
    seconds: float
    latency: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "pass": self.text,
            "changed": self.result.changed,
            "refusals": [{"node": r.node, "reason": r.reason} for r in self.result.refusals],
            "details": dict(self.result.details),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "metric_before": self.metric_before,
            "metric_after": self.metric_after,
            "seconds": self.seconds,
            "latency": self.latency,
        }


def run_module_passes(
    module: torch.nn.Module,
    passes: Sequence[ModulePass],
    context: ModuleContext,
    *,
    started: Callable[[str], None] | None = None,
    latency: Callable[[torch.nn.Module], float | None] | None = None,
) -> tuple[torch.nn.Module, tuple[ModulePassRecord, ...]]:
    """Apply `passes` in order; masks and codebooks are written into plain parameters at the end.

    After each pass the module must run on `context.example` and return the same outputs, of the same shapes and
    dtypes, with finite values. `started` hears each pass's text before it runs. `latency` times the engine of a module
    against the original's; it is given copies.

    Raises:
        PassError: a pass failed or broke the module. The message names it and the passes that ran before.
    """
    from enginery.passes.module.finish import finish
    from enginery.passes.spec import format_pass

    expected = _signature(module, context)
    now, score = figures(module, context.example), _score(module, context)
    records: list[ModulePassRecord] = []
    for one in passes:
        text = format_pass(one)
        if started is not None:
            started(text)
        begin = time.monotonic()
        try:
            module, result = one.apply(module, context)
            _check(module, context, expected)
        except EngineryError as error:
            ran = ", ".join(r.text for r in records) or "none"
            raise PassError(f"module pass {text} failed: {error}; passes before it: {ran}") from error
        seconds = time.monotonic() - begin
        before, metric_before = now, score
        now, score = figures(module, context.example), _score(module, context)
        timed = None if latency is None else latency(finish(copy.deepcopy(module)))
        records.append(ModulePassRecord(text, result, before, now, metric_before, score, seconds, timed))
    return finish(module), tuple(records)


def _score(module: torch.nn.Module, context: ModuleContext) -> float | None:
    if context.metric is None:
        return None
    return float(context.metric(module.eval()))


Signature = dict[str, tuple[tuple[int, ...], str]]


def _signature(module: torch.nn.Module, context: ModuleContext) -> Signature:
    """Shape and dtype of each output on the example; raises where a value is not finite."""
    from enginery.passes.module.outputs import infer

    outputs = infer(module, context.example)
    for name, tensor in outputs.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PassError(f"output {name} holds NaN or Inf on the example batch")
    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in outputs.items()}


def _check(module: torch.nn.Module, context: ModuleContext, expected: Signature) -> None:
    try:
        found = _signature(module, context)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PassError(f"the module no longer runs on the example batch: {error}") from error
    if found != expected:
        raise PassError(f"the module's outputs changed from {expected} to {found}")
