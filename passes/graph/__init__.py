"""Graph passes: their names, and the list that each target gets.

Nothing heavy is imported before a pass is looked up.
"""

from __future__ import annotations

import importlib

from enginery.passes.base import GraphPass
from enginery.passes.spec import parse_pass

_PASSES = {
    "conform-tensorrt": "conformance.tensorrt:ConformTensorRT",
    "convert-to-half": "precision.half:ConvertToHalf",
    "fold-constants": "clean.fold_constants:FoldConstants",
    "freeze-initializers": "clean.freeze_initializers:FreezeInitializers",
    "fuse-attention": "fusion.attention:FuseAttention",
    "fuse-conv-batch-norm": "fusion.conv_batch_norm:FuseConvBatchNorm",
    "fuse-gelu": "fusion.gelu:FuseGelu",
    "fuse-group-norm": "fusion.group_norm:FuseGroupNorm",
    "fuse-grouped-queries": "fusion.grouped_queries:FuseGroupedQueries",
    "fuse-hard-swish": "fusion.hard_swish:FuseHardSwish",
    "fuse-layer-norm": "fusion.layer_norm:FuseLayerNorm",
    "fuse-matmul-add": "fusion.matmul_add:FuseMatMulAdd",
    "fuse-rms-norm": "fusion.rms_norm:FuseRMSNorm",
    "fuse-rotary": "fusion.rotary:FuseRotary",
    "fuse-silu": "fusion.silu:FuseSilu",
    "lower-to-multi-head-attention": "lower.multi_head_attention:LowerToMultiHeadAttention",
    "lower-to-embedding-norm": "lower.embedding_norm:LowerToEmbeddingNorm",
    "lower-to-primitive-attention": "lower.primitive_attention:LowerToPrimitiveAttention",
    "lower-to-residual-norm": "lower.residual_norm:LowerToResidualNorm",
    "merge-casts": "clean.merge_casts:MergeCasts",
    "merge-clips": "clean.merge_clips:MergeClips",
    "merge-duplicate-nodes": "clean.merge_duplicate_nodes:MergeDuplicateNodes",
    "merge-duplicate-weights": "clean.merge_duplicate_weights:MergeDuplicateWeights",
    "merge-reshapes": "clean.merge_reshapes:MergeReshapes",
    "merge-transposes": "clean.merge_transposes:MergeTransposes",
    "pack-attention": "lower.packed_attention:PackAttention",
    "pack-rotary": "lower.packed_rotary:PackRotary",
    "raise-opset": "clean.raise_opset:RaiseOpset",
    "remove-dead-code": "clean.remove_dead_code:RemoveDeadCode",
    "remove-identities": "clean.remove_identities:RemoveIdentities",
    "restore-weight-names": "clean.restore_weight_names:RestoreWeightNames",
    "select-early": "clean.select_early:SelectEarly",
    "simplify-masks": "clean.simplify_masks:SimplifyMasks",
    "simplify-shapes": "clean.simplify_shapes:SimplifyShapes",
    "split-projections": "lower.split_projections:SplitProjections",
    "store-codebooks": "share.codebook:StoreCodebooks",
    "unfold-heads": "fusion.unfold_heads:UnfoldHeads",
}

CLEANING = (
    "freeze-initializers",
    "remove-dead-code",
    "fold-constants",
    "raise-opset{version=13}",  # Q/DQ pairs per channel, and every recognized form, need as much at least.
    "merge-duplicate-weights",
    "merge-duplicate-nodes",
    "simplify-shapes",
    "simplify-masks",
    "merge-transposes",
    "merge-casts",
    "merge-reshapes",
    "merge-clips",
    "remove-identities",
    "fold-constants",
    "merge-duplicate-nodes",
    "restore-weight-names",
)

_RECOGNIZE = (
    "fuse-conv-batch-norm",
    "fuse-layer-norm",
    "fuse-gelu",
    "fuse-silu",
    "fuse-hard-swish",
    "unfold-heads",
    "fuse-attention",
)

# What lowering leaves around the ops that it wrote.
_TIDY = (
    "merge-transposes",
    "merge-reshapes",
    "simplify-shapes",
    "remove-identities",
    "merge-duplicate-nodes",
    "remove-dead-code",
)

_LOWER = {
    # Measured (bench/fusions.py): the standard op with packed heads beats the contrib op on MiniLM; RMSNorm, rotary
    # embedding and grouped queries as one op each gain on a Llama, together; three products are not slower than one of
    # three times the columns; SkipLayerNormalization loses against Add and LayerNormalization, GroupNormalization
    # against what exporters write, and MatMul and Add gain nothing on Gemm.
    "onnxruntime-cpu": (
        "split-projections",
        "fuse-rms-norm",
        "fuse-rotary",
        "fuse-grouped-queries",
        "pack-attention",
        "pack-rotary",
        "lower-to-residual-norm{write=false}",
        "lower-to-embedding-norm{write=false}",
    ),
    "onnxruntime-cuda": ("lower-to-multi-head-attention", "lower-to-residual-norm"),
    # Neither faster nor slower in float (ViT-S: 1.00); in integers each of the three gets a grid of its own.
    "openvino-cpu": ("split-projections", "lower-to-primitive-attention"),
}

# What reads best in the tidy graph.
_FINISH = {"onnxruntime-cpu": ("select-early",)}

# TensorRT cannot build Attention in float32; other targets get the ops that every runtime has.
_PORTABLE = ("lower-to-primitive-attention",)


def graph_passes() -> dict[str, type[GraphPass]]:
    """Every graph pass by name."""
    found: dict[str, type[GraphPass]] = {}
    for name, place in sorted(_PASSES.items()):
        module, _, kind = place.partition(":")
        found[name] = getattr(importlib.import_module(f"enginery.passes.graph.{module}"), kind)
    return found


def canonical_passes() -> tuple[GraphPass, ...]:
    """What every target's default passes begin with: clean, and recognize into canonical forms."""
    registry = graph_passes()
    return tuple(parse_pass(text, registry) for text in (*CLEANING, *_RECOGNIZE))


def default_passes(target: str) -> tuple[GraphPass, ...]:
    """The passes for a target, in order: clean, recognize into canonical forms, lower, tidy up, finish.

    A target that is not known gets standard operators only.
    """
    registry = graph_passes()
    names = (*_LOWER.get(target, _PORTABLE), *_TIDY, *_FINISH.get(target, ()))
    return (*canonical_passes(), *(parse_pass(name, registry) for name in names))
