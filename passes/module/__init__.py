"""Module passes: transformations of an `nn.Module` before export.

`module_passes()` lists them by name; `run_module_passes` runs a sequence, checks the module after each pass and
measures what each one cost and saved. The passes themselves import torch only when they are applied.
"""

from __future__ import annotations

from enginery.passes.base import ModulePass
from enginery.passes.module.sequence import ModulePassRecord, run_module_passes

__all__ = ["ModulePassRecord", "module_passes", "run_module_passes"]


def module_passes() -> dict[str, type[ModulePass]]:
    """Every module pass by its kebab-case name, in the order in which a recipe would usually list them."""
    from enginery.passes.module.distil.distil import Distil
    from enginery.passes.module.distil.drop_layers import DropLayers
    from enginery.passes.module.linear.convert import ConvertPointwise
    from enginery.passes.module.linear.merge import MergeLinear
    from enginery.passes.module.linear.separate import SeparateConvolutions
    from enginery.passes.module.low_rank.factorize import Factorize
    from enginery.passes.module.prune.channels import PruneChannels
    from enginery.passes.module.prune.heads import PruneHeads
    from enginery.passes.module.prune.n_m import PruneNM
    from enginery.passes.module.prune.redundant import RemoveRedundantChannels
    from enginery.passes.module.prune.weights import PruneWeights
    from enginery.passes.module.recover import Recover
    from enginery.passes.module.share.codebooks import ShareWeights
    from enginery.passes.module.share.duplicates import TieWeights

    passes: tuple[type[ModulePass], ...] = (
        MergeLinear,
        RemoveRedundantChannels,
        DropLayers,
        PruneHeads,
        PruneChannels,
        SeparateConvolutions,
        Factorize,
        PruneWeights,
        PruneNM,
        Recover,
        Distil,
        ShareWeights,
        TieWeights,
        ConvertPointwise,
    )
    return {p.name: p for p in passes}
