"""Recipes: the file that says all there is to say about one model.

`schema` is what it may say; `file` reads and explains it; `catalogue` finds the built-in ones.
"""

from enginery.pipeline.recipe.schema import (
    Data,
    Dim,
    Dtype,
    ImagePreprocess,
    Metric,
    Mode,
    Postprocess,
    Precision,
    Recipe,
    Source,
    Tensor,
    TextPreprocess,
    Weights,
)

__all__ = [
    "Data",
    "Dim",
    "Dtype",
    "ImagePreprocess",
    "Metric",
    "Mode",
    "Postprocess",
    "Precision",
    "Recipe",
    "Source",
    "Tensor",
    "TextPreprocess",
    "Weights",
]
