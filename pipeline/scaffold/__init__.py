"""A first recipe for a user's own model: `enginery init`.

`onnx_file`, `python_file` and `hf_folder` read what the model says about itself; `text` makes a recipe of it; `write`
does both.
"""

from enginery.pipeline.scaffold.draft import Input
from enginery.pipeline.scaffold.write import recipe_name, scaffold

__all__ = ["Input", "recipe_name", "scaffold"]
