"""Weights as a codebook and packed codes, in the smaller of two forms.

*Dense*: one code per element. *Sparse*: one bit per element says whether it is zero, and only the others have a code.
Codes take 1, 2, 4 or 8 bits, packed into bytes with the first code in the lowest bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Packed:
    """`count` codes of `bits` each into `codebook` (1-D, of the weight's dtype); `bitmap` in the sparse form."""

    codebook: Array
    codes: Bytes
    bits: int
    count: int
    bitmap: Bytes | None

    @property
    def nbytes(self) -> int:
        return self.codebook.nbytes + self.codes.nbytes + (0 if self.bitmap is None else self.bitmap.nbytes)


def pack(weight: Array, limit: int) -> Packed | None:
    """The smaller form of a weight, bit for bit; None where it has more than `limit` (at most 256) distinct values.

    Values are told apart by their bits, so that -0.0 and NaN survive.
    """
    flat = np.ascontiguousarray(weight).reshape(-1)
    as_bits = flat.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[flat.dtype.itemsize])
    values, codes = np.unique(as_bits, return_inverse=True)
    if len(values) > limit:
        return None
    dense = _form(values.view(flat.dtype), codes, None)
    zero = as_bits == 0
    if not zero.any() or zero.all():
        return dense
    rest, rest_codes = np.unique(as_bits[~zero], return_inverse=True)
    sparse = _form(rest.view(flat.dtype), rest_codes, np.packbits(~zero, bitorder="little"))
    return min(dense, sparse, key=lambda form: form.nbytes)


def _form(codebook: Array, codes: Array, bitmap: Bytes | None) -> Packed:
    bits = next(width for width in (1, 2, 4, 8) if len(codebook) <= 1 << width)
    return Packed(codebook, _pack_codes(codes.astype(np.uint8), bits), bits, len(codes), bitmap)


def _pack_codes(codes: Bytes, bits: int) -> Bytes:
    per_byte = 8 // bits
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, np.uint8)
    padded[: len(codes)] = codes
    shifted = padded.reshape(-1, per_byte) << (np.arange(per_byte, dtype=np.uint8) * np.uint8(bits))
    return np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
