"""Bundles: what a build delivers, verified and run with neither torch nor onnx.

`folder` opens and verifies one, `manifest` is what it says of itself, `signature` who vouches for it, `session`
runs it.
"""

from enginery.pipeline.bundle.folder import (
    RELEASE_FILES,
    SUMS,
    Bundle,
    Verified,
    file_records,
    must_be_outside,
    sums_text,
    verify_bundle,
    verify_digests,
    verify_to_sign,
    write_sums,
)

__all__ = [
    "RELEASE_FILES",
    "SUMS",
    "Bundle",
    "Verified",
    "file_records",
    "must_be_outside",
    "sums_text",
    "verify_bundle",
    "verify_digests",
    "verify_to_sign",
    "write_sums",
]
