"""The recipe's `precision` as the options of the quantization passes, which know no recipe."""

from __future__ import annotations

from typing import cast

from enginery.passes.quantize import NodeOverride, QuantizeOptions
from enginery.passes.quantize.options import Mode
from enginery.pipeline.recipe.schema import Precision


def quantize_options(precision: Precision) -> QuantizeOptions:
    return QuantizeOptions(
        mode=cast("Mode", precision.mode.value),
        observer=precision.observer,
        percentile=precision.percentile,
        passes=precision.passes,
        overrides=tuple(NodeOverride(**override.model_dump()) for override in precision.overrides),
        keep_float=precision.keep_float,
        block_size=precision.block_size,
    )
