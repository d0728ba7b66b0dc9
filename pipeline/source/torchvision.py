"""Makes an installed torchvision importable where its compiled part was built for another PyTorch.

PyPI's torchvision is built against CUDA. Beside a CPU build of PyTorch its library does not load, and `import
torchvision` fails for want of the schemas of two operators; transformers and timm import it wherever it is installed.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def prepare_torchvision() -> tuple[str, ...]:
    """Import torchvision, declaring what its library would have declared where that cannot be loaded.

    Returns:
        What was done, for the report; empty where torchvision is absent or works.
    """
    if importlib.util.find_spec("torchvision") is None:
        return ()
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return ()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the half-imported package
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _alive.append(library)
    importlib.import_module("torchvision")
    return ("torchvision does not match torch: its operators nms and qnms were declared, and cannot run",)


_alive: list[object] = []
"""A torch library takes its definitions back when it is collected."""
