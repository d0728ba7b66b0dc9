"""What a serialized TensorRT plan says about itself, read from its first bytes: no GPU, no runtime.

The layout is not documented by NVIDIA. It was read off plans of TensorRT-RTX 1.7 built with known settings (the tests
build them again): `vtrt` at 0, the file's size as u64 at 16, four version bytes at 24, `vtrt` again at 28, and a mask
of compute capabilities as u32 at 32. Plans of full TensorRT begin in other ways; of them only the version that was
recorded at build time is known.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enginery.errors import IntegrityError

HEADER_BYTES: Final = 64
_MAGIC: Final = b"vtrt"
_LAYOUT: Final = struct.Struct("<4s12xQ4B4sI")

CAPABILITY_BITS: Final = {"7.5": 0, "8.0": 1, "8.6": 2, "8.9": 3, "12.0": 4, "12.1": 5}
"""Compute capability by bit of the mask. A plan for all devices of RTX also has bit 6, whose meaning is not known."""


@dataclass(frozen=True)
class PlanHeader:
    """Size in bytes, version of the TensorRT-RTX that wrote the plan, and the compute capabilities that may run it."""

    size: int
    version: str
    capabilities: tuple[str, ...]
    mask: int

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "version": self.version, "capabilities": list(self.capabilities), "mask": self.mask}


def read_header(path: Path) -> PlanHeader:
    """Read and check the header of a TensorRT-RTX plan.

    Raises:
        IntegrityError: the file is no such plan, or was cut or extended.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:4] != _MAGIC:
        raise IntegrityError(f"{path.name} is no TensorRT-RTX plan: it begins with {head[:4].hex() or 'nothing'}.")
    _, size, *rest = _LAYOUT.unpack_from(head)
    numbers, magic, mask = rest[:4], rest[4], rest[5]
    if magic != _MAGIC:
        raise IntegrityError(
            f"{path.name} is no plan of a known TensorRT-RTX version: its second mark is {magic.hex()}."
        )
    actual = path.stat().st_size
    if size != actual:
        raise IntegrityError(f"{path.name} says that it has {size} bytes; the file has {actual}. Copy it again.")
    capabilities = tuple(name for name, bit in CAPABILITY_BITS.items() if mask >> bit & 1)
    return PlanHeader(size, ".".join(map(str, numbers)), capabilities, mask)


def check_header(path: Path, version: str, capability: str | None = None) -> PlanHeader:
    """Check that a plan was written by `version` and, where it is given, may run on compute `capability` ("8.9").

    Raises:
        IntegrityError: the header is damaged, or names another version or other devices.
    """
    header = read_header(path)
    if header.version != version:
        raise IntegrityError(
            f"{path.name} was built by TensorRT-RTX {header.version}; installed is {version}. A plan runs only on the "
            f"version that built it: install tensorrt-rtx {header.version}, or build again."
        )
    if capability is not None and capability not in header.capabilities:
        raise IntegrityError(
            f"{path.name} was built for compute capability {', '.join(header.capabilities)}; this GPU has "
            f"{capability}. Build again with `compute_capabilities`."
        )
    return header
