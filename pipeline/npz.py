"""Arrays on disk whose bytes depend on the arrays alone.

`numpy.savez` stamps the time into the archive; two equal builds would differ.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from enginery.engines.base import Arrays, Feeds
from enginery.errors import IntegrityError

_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_npz(path: Path, arrays: Feeds) -> None:
    """Write arrays by name, sorted, uncompressed, without times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(arrays[name], order="C"), allow_pickle=False)
            archive.writestr(info, buffer.getbuffer())


def digest_arrays(arrays: Feeds) -> str:
    """SHA-256 over names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def read_npz(path: Path) -> Arrays:
    """Read arrays by name; pickled objects are refused.

    Raises:
        IntegrityError: the file is not an archive of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise IntegrityError(f"{path} is not an .npz file of plain arrays: {error}.") from error
