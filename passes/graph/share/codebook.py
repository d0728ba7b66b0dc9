"""Store weights that have few distinct values as a codebook and codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.edit import Edits, Names
from enginery.passes.graph.share.packing import Bytes, Packed, pack
from enginery.passes.graph.weights import is_known, nbytes, numpy_dtype, peek

BITWISE_OPSET = 18
"""The opset that brought BitwiseAnd."""

COST = (
    "the file is smaller; the runtime rebuilds the weights when it opens the model (with graph optimizations on) and "
    "computes at the same speed; with them off it rebuilds them in every run"
)


@dataclass(frozen=True)
class StoreCodebooks:
    """Replaces float initializers of the main graph by look-ups, bit for bit.

    1. An initializer with at most `codes` distinct values becomes `Gather(codebook, codes)`, its codes packed to 1, 2,
       4 or 8 bits and unpacked by BitShift and BitwiseAnd.
    2. Where it is smaller, zeros are left out: a bit for each element says whether it has a code, and CumSum over the
       bits finds which (pruned and shared weights, as Han et al. 2016 store them).
    3. Initializers with fewer than `least` elements are not looked at. Kept with a reason: one that the caller may
       set, one that would not become smaller, and one whose codes need BitwiseAnd in a model below opset 18.
       Initializers with more distinct values are the ordinary case and are only counted.
    4. The look-up takes the initializer's name. A second run changes nothing.

    List it last: `fold-constants` after it would compute the weights back.
    """

    name: ClassVar[str] = "store-codebooks"
    tolerance: ClassVar[float] = 1e-5
    """The weights are the same bits; a kernel that knows its weight beforehand sums in another order."""

    codes: int = 256
    least: int = 1024

    def __post_init__(self) -> None:
        if not 2 <= self.codes <= 256:
            raise UsageError(f"{self.name}: codes={self.codes} is out of range; expected 2 to 256 (one byte)")

    def apply(self, graph: gs.Graph) -> PassResult:
        if not graph.nodes:
            return PassResult()
        edits = Edits(graph, Names(graph))
        inputs = {id(tensor) for tensor in graph.inputs}
        outputs = {id(tensor) for tensor in graph.outputs}
        refusals: list[Refusal] = []
        stored: dict[str, Any] = {}
        many = 0
        for constant in list(graph.tensors().values()):
            if not isinstance(constant, gs.Constant) or not self._is_candidate(constant) or id(constant) in outputs:
                continue
            if id(constant) in inputs or not is_known(constant):
                refusals.append(
                    Refusal(constant.name, "not stored by codes: it is also an input, which the caller may set")
                )
                continue
            packed = pack(peek(constant), self.codes)
            if packed is None:
                many += 1
            elif reason := _reason(packed, constant, graph.opset):
                refusals.append(Refusal(constant.name, f"not stored by codes: {reason}"))
            else:
                edits.replace(constant, _Builder(edits, constant).weight(packed))
                stored[constant.name] = {
                    "values": len(packed.codebook),
                    "bits": packed.bits,
                    "sparse": packed.bitmap is not None,
                    "bytes": [nbytes(constant), packed.nbytes],
                }
        changed = edits.apply()
        details = {"cost": COST, "stored": stored, "with_more_values": many}
        return PassResult(changed, tuple(refusals), details)

    def _is_candidate(self, constant: gs.Constant) -> bool:
        dtype = numpy_dtype(constant)
        return dtype.kind == "f" and dtype.itemsize in (2, 4, 8) and nbytes(constant) // dtype.itemsize >= self.least


def _reason(packed: Packed, constant: gs.Constant, opset: int) -> str | None:
    if packed.nbytes >= nbytes(constant):
        return f"{packed.nbytes} bytes instead of {nbytes(constant)}"
    if opset < BITWISE_OPSET and (packed.bits < 8 or packed.bitmap is not None):
        return f"its codes need BitwiseAnd of opset {BITWISE_OPSET}; the model has {opset}"
    return None


class _Builder:
    """Adds the nodes of one look-up in front of all others."""

    def __init__(self, edits: Edits, constant: gs.Constant) -> None:
        self.edits = edits
        self.constant = constant
        self.first = edits.graph.nodes[0]

    def weight(self, packed: Packed) -> gs.Tensor:
        codes = self._cast(self._unpack("codes", packed.codes, packed.bits, packed.count), np.int32)
        codebook = self._constant("codebook", packed.codebook)
        values = self._node("Gather", codebook, codes, axis=0)
        if packed.bitmap is not None:
            values = self._spread(values, packed)
        shape = self._constant("shape", np.array(self.constant.shape, np.int64))
        return self._node("Reshape", values, shape, like=self.constant)

    def _spread(self, values: gs.Tensor, packed: Packed) -> gs.Tensor:
        """Put the values where the bitmap is set, zero elsewhere: bits times their running count index [0, *values]."""
        assert packed.bitmap is not None
        size = int(np.prod(self.constant.shape))
        bits = self._cast(self._unpack("bitmap", packed.bitmap, 1, size), np.int32)
        running = self._node("CumSum", bits, self._constant("axis", np.array(0, np.int64)))
        index = self._node("Mul", running, bits)
        zero = self._constant("zero", np.zeros(1, numpy_dtype(self.constant)))
        return self._node("Gather", self._node("Concat", zero, values, axis=0), index, axis=0)

    def _unpack(self, name: str, packed: Bytes, bits: int, count: int) -> gs.Tensor:
        """`count` codes (uint8) from bytes that hold `8 / bits` each."""
        if bits == 8:
            return self._constant(name, packed)
        per_byte = 8 // bits
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
        column = self._constant(name, packed.reshape(-1, 1))
        shifted = self._node("BitShift", column, self._constant("shifts", shifts), direction="RIGHT")
        masked = self._node("BitwiseAnd", shifted, self._constant("mask", np.array((1 << bits) - 1, np.uint8)))
        flat = self._node("Reshape", masked, self._constant("flat", np.array([-1], np.int64)))
        if count == len(packed) * per_byte:
            return flat
        limits = [self._constant(key, np.array([value], np.int64)) for key, value in (("start", 0), ("end", count))]
        return self._node("Slice", flat, *limits)

    def _cast(self, tensor: gs.Tensor, dtype: type) -> gs.Tensor:
        return self._node("Cast", tensor, to=dtype)

    def _constant(self, name: str, values: Any) -> gs.Constant:
        return self.edits.constant(f"{self.constant.name}/{name}", values)

    def _node(self, op: str, *inputs: gs.Tensor, like: gs.Tensor | None = None, **attrs: Any) -> gs.Tensor:
        name = f"{self.constant.name}/{op}"
        return self.edits.node(op, inputs, at=self.first, like=like, name=name, attrs=attrs)
