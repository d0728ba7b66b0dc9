"""How much there is to multiply: the floor under a latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enginery.engines.openvino import import_openvino


def multiply_accumulates(model: Path, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """The multiply-accumulates of all matrix products and convolutions.

    Args:
        model: A float ONNX file.
        sizes: The shape of each input.
    """
    network = import_openvino().Core().read_model(str(model))
    network.reshape({name: list(shape) for name, shape in sizes.items()})
    return sum(map(_of_operation, network.get_ordered_ops()))


def _of_operation(operation: Any) -> int:
    kind = operation.get_type_name()
    if kind not in ("MatMul", "Convolution", "GroupConvolution"):
        return 0
    left, right = (tuple(operation.input(index).get_shape()) for index in (0, 1))
    results = int(np.prod(operation.output(0).get_shape()))
    if kind == "MatMul":
        return results * left[-2 if operation.get_attributes()["transpose_a"] else -1]
    return results * int(np.prod(right[2 if kind == "GroupConvolution" else 1 :]))
