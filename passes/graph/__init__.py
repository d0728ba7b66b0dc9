"""Graph passes: their names, and the list that each target gets.

Nothing heavy is imported before a pass is looked up.
"""

from __future__ import annotations

import importlib

from enginery.passes.base import GraphPass
from enginery.passes.spec import parse_pass

_PASSES = {
    "fold-constants": "clean.fold_constants:FoldConstants",
    "merge-casts": "clean.merge_casts:MergeCasts",
    "merge-duplicate-nodes": "clean.merge_duplicate_nodes:MergeDuplicateNodes",
    "merge-duplicate-weights": "clean.merge_duplicate_weights:MergeDuplicateWeights",
    "merge-reshapes": "clean.merge_reshapes:MergeReshapes",
    "merge-transposes": "clean.merge_transposes:MergeTransposes",
    "remove-dead-code": "clean.remove_dead_code:RemoveDeadCode",
    "remove-identities": "clean.remove_identities:RemoveIdentities",
    "simplify-shapes": "clean.simplify_shapes:SimplifyShapes",
}

_CLEAN = (
    "remove-dead-code",
    "fold-constants",
    "merge-duplicate-weights",
    "merge-duplicate-nodes",
    "simplify-shapes",
    "merge-transposes",
    "merge-casts",
    "merge-reshapes",
    "remove-identities",
    "fold-constants",
    "merge-duplicate-nodes",
    "remove-dead-code",
)


def graph_passes() -> dict[str, type[GraphPass]]:
    """Every graph pass by name."""
    found: dict[str, type[GraphPass]] = {}
    for name, place in sorted(_PASSES.items()):
        module, _, kind = place.partition(":")
        found[name] = getattr(importlib.import_module(f"enginery.passes.graph.{module}"), kind)
    return found


def default_passes(target: str) -> tuple[GraphPass, ...]:
    """The passes for a target, in order. Targets that are not known get the passes that only clean."""
    registry = graph_passes()
    return tuple(parse_pass(text, registry) for text in _default_specs(target))


def _default_specs(target: str) -> tuple[str, ...]:
    del target  # lowering follows
    return _CLEAN
