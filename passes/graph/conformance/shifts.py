"""Asymmetric integers as symmetric ones and a constant: (q - z) s = (q - 128) s + (128 - z) s.

A product with a constant weight turns the constant into a bias, since W (x + c) = W x + c sum(W): the way in which
integer kernels treat zero points (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.3). A Conv pads with real zeros and so sums fewer weights at its border:
its share is then a map of the output's size, which a fixed height and width make a constant. Where the second operand
is computed as well, its columns are summed when the model runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from enginery.passes.graph.conformance.grids import Grid, grid_of, is_dequantize, real_values
from enginery.passes.graph.conformance.paddings import is_padded, padded_share, share_fits
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

Array = npt.NDArray[Any]

_PRODUCTS: Final = {"Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1)}

_AXES_AS_INPUT: Final = 13
"""The opset from which ReduceSum takes its axes as an input."""


def shift_of(grid: Grid, node: gs.Node) -> Array | None:
    """What is added after dequantizing the shifted integers, shaped like the tensor; None where that is unknown."""
    centre = 128 if grid.dtype == np.uint8 else 0
    shift = (centre - grid.zero) * grid.scale
    if shift.size == 1:
        return np.asarray(shift).reshape(())
    if node.inputs[0].shape is None:
        return None
    shape = [1] * len(node.inputs[0].shape)
    shape[grid.axis] = -1
    return np.asarray(shift).reshape(shape)


def is_product(user: gs.Node, index: int) -> bool:
    """Whether a node multiplies and sums this input in integers: behind DQ nodes, or with a constant."""
    if index not in _PRODUCTS.get(user.op, ()):
        return False
    other = user.inputs[1 - index]
    return is_known(other) or _is_dequantized(other)


def takes_shift(user: gs.Node, index: int) -> bool:
    """Whether a product can read the tensor without a scalar shift and add the shift's share afterwards."""
    if index != 0 or not is_product(user, index):
        return False
    grid_shift = _input_shift(user)
    if grid_shift is None or grid_shift.size != 1:
        return False
    weight = weight_of(user)
    if weight is None:
        return user.op == "MatMul" and all(given.shape is not None and len(given.shape) > 1 for given in user.inputs)
    if user.op == "Conv":
        return not is_padded(user) or share_fits(user, weight)
    return user.op == "MatMul" or (user.op == "Gemm" and not user.attrs.get("transA", 0))


def weight_of(user: gs.Node) -> Array | None:
    """The real values of a product's constant weight, dequantized if need be; None where it is computed."""
    given = user.inputs[1]
    if is_known(given):
        return peek(given).astype(np.float64)
    maker = producer(given)
    if maker is None or not is_dequantize(maker) or not is_known(maker.inputs[0]):
        return None
    grid = grid_of(maker)
    return None if grid is None else real_values(maker.inputs[0], grid)


def add_shift(edits: Edits, user: gs.Node, source: gs.Tensor, shift: Array) -> None:
    """Let a product read `source` and add the shift's share to its result."""
    weight = weight_of(user)
    result = user.outputs[0]
    dtype = np.dtype(np.float32) if result.dtype is None else numpy_dtype(result)
    new = edits.node(user.op, [source, *user.inputs[1:]], at=user, like=result, attrs=dict(user.attrs))
    if weight is None:
        share = _computed_share(edits, user, np.asarray(float(shift), dtype))
    else:
        share = edits.constant(f"{label(user)}/share", (_share(user, weight) * float(shift)).astype(dtype))
    edits.replace(result, edits.node("Add", [new, share], at=user, like=result, name=f"{label(user)}/shift"))


def _computed_share(edits: Edits, user: gs.Node, shift: Array) -> gs.Tensor:
    """The shift times the sum of each column of the second operand."""
    name, axes = label(user), np.array([-2])
    given, attrs = [user.inputs[1]], {"keepdims": 1}
    if edits.names.model.opset >= _AXES_AS_INPUT:
        total = edits.node("ReduceSum", [*given, edits.constant(f"{name}/axes", axes)], at=user, attrs=attrs)
    else:
        total = edits.node("ReduceSum", given, at=user, attrs={**attrs, "axes": axes.tolist()})
    share = edits.node("Mul", [total, edits.constant(f"{name}/share", shift)], at=user)
    total.dtype = share.dtype = shift.dtype
    return share


def _share(user: gs.Node, weight: Array) -> Array:
    """The sum of the weight over everything that one output element sums, shaped to be added to the result."""
    if user.op == "Conv":
        if is_padded(user):
            return padded_share(user, weight)
        total = weight.sum(axis=tuple(range(1, weight.ndim)))
        return total.reshape(1, -1, *([1] * (weight.ndim - 2)))
    if user.op == "Gemm":
        return weight.sum(axis=1 if user.attrs.get("transB", 0) else 0) * float(user.attrs.get("alpha", 1.0))
    if weight.ndim == 1:
        return np.asarray(weight.sum())
    # A stack of matrices keeps the place of the rows, so that its share is added to each of its products.
    return weight.sum(axis=-2, keepdims=weight.ndim > 2)


def _is_dequantized(tensor: gs.Tensor) -> bool:
    maker = producer(tensor)
    return maker is not None and is_dequantize(maker)


def _input_shift(user: gs.Node) -> Array | None:
    maker = producer(user.inputs[0])
    grid = grid_of(maker) if maker is not None and is_dequantize(maker) else None
    return None if grid is None or maker is None else shift_of(grid, maker)
