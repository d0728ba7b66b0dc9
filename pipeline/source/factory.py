"""Source `factory`: any Python callable that returns an `nn.Module`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source.callables import Reference, call, import_callable
from enginery.pipeline.source.digest import code_facts, file_digest, option_files
from enginery.pipeline.source.original import Original, parameters_digest
from enginery.pipeline.source.weights import check_pinned, load_state, read_weights, weights_file

if TYPE_CHECKING:
    import torch


def load(source: Source, folder: Path) -> Original:
    """Call the factory.

    A factory with a parameter `weights` gets what the weights file holds (a state dict, as saved) and loads it itself.
    Any other factory is called without, and the state dict is loaded strictly into the module it returns.

    Raises:
        SourceError: the factory raised or returned something else, or the weights do not fit or are not pinned.
    """
    assert source.factory is not None
    reference = Reference.parse(source.factory, folder)
    factory = import_callable(reference, SourceError)
    provenance: dict[str, Any] = {"factory": source.factory, "options": source.options, **code_facts(reference)}
    if source.weights is None:
        module = _module(factory, reference, source.options)
        return Original("factory", parameters_digest(module), module, provenance=provenance)
    path = weights_file(source.weights, folder)
    digest = check_pinned(source.weights, path)
    provenance["weights"] = {"file": path.name, "package": source.weights.package, "sha256": digest}
    state = read_weights(path)
    if "weights" in inspect.signature(factory).parameters:
        module = _module(factory, reference, {**source.options, "weights": state})
    else:
        module = _module(factory, reference, source.options)
        load_state(module, state, path.name)
    return Original("factory", digest, module, provenance=provenance)


def digest(source: Source, folder: Path) -> dict[str, Any]:
    """What the factory's result rests on, without importing it."""
    assert source.factory is not None
    facts: dict[str, Any] = code_facts(Reference.parse(source.factory, folder))
    facts["files"] = option_files(source.options, folder)
    if source.weights is not None:
        facts["weights"] = file_digest(weights_file(source.weights, folder))
    return facts


def _module(factory: Callable[..., Any], reference: Reference, options: dict[str, Any]) -> torch.nn.Module:
    import torch

    module = call(factory, reference, options, SourceError)
    if not isinstance(module, torch.nn.Module):
        raise SourceError(
            f"The factory {reference.text!r} returned {type(module).__name__!r}; expected a torch.nn.Module. "
            "Return the module itself, not its class, a tuple or a state dict."
        )
    return module.eval()
