"""Engines of changed modules, timed against the original's: for advice, and for the record of compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginery.engines import BuildSpec, TensorSpec, get_engine
from enginery.errors import EngineError

if TYPE_CHECKING:
    import torch

    from enginery.engines.base import Feeds
    from enginery.pipeline.line.data import DataAccess
    from enginery.pipeline.line.trial import EngineTrials


def cannot_time(target: str) -> str | None:
    """Why engines of the target cannot be timed on this machine; None if they can."""
    engine = get_engine(target)
    return engine.cannot_build() or engine.cannot_run()


def engine_trials(line: DataAccess, module: torch.nn.Module, example: Feeds) -> EngineTrials:
    """Times engines of changed modules against this one's, for the recipe's first target, on inputs like the example.

    Raises:
        EngineError: this machine cannot build or run that target's engines.
    """
    from enginery.pipeline.line.trial import EngineTrials

    target = line.recipe.targets[0]
    if reason := cannot_time(target):
        raise EngineError(f"compress: cannot time engines of {target} here: {reason} MACs do: --no-latency.")
    data = line.calibration or line.training or line.evaluation
    return EngineTrials(
        engine=get_engine(target),
        spec=BuildSpec(
            line.inputs,
            line.declared or _seen_outputs(line, module, example),
            line.dims,
            line.recipe.engine.get(target, {}),
        ),
        whole=module,
        example=example,
        open_model=line.open_model,
        batches=(lambda: (batch.inputs for batch in data.batches())) if data is not None else None,
        seed=line.recipe.seed,
    )


def _seen_outputs(line: DataAccess, module: torch.nn.Module, example: Feeds) -> tuple[TensorSpec, ...]:
    """The module's outputs, their dimensions named by what two sizes of the inputs show."""
    from enginery.pipeline.comparison.shapes import infer_output_specs, random_inputs
    from enginery.pipeline.source.opened import discover_outputs, module_session

    names = discover_outputs(module, example)
    session = module_session(module, line.inputs, tuple(TensorSpec(name, "float32", ()) for name in names))
    sizes = [{name: getattr(dim, end) for name, dim in line.dims.items()} for end in ("min", "opt")]
    return infer_output_specs(
        names, [(one, session.run(random_inputs(line.inputs, one, line.recipe.seed))) for one in sizes]
    )
