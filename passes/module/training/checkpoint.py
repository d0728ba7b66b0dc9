"""Checkpoints of a training: written by atomic rename, read without executing pickled code.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from enginery.errors import IntegrityError


def fingerprint(module: torch.nn.Module, *facts: object) -> str:
    """A digest of the starting weights and of everything else that decides the training's course."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class Checkpoint:
    """One file in `folder`, named after the training; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None, name: str, mark: str) -> None:
        self.path = None if folder is None else folder / f"{name}-{mark}.pt"

    def save(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None.

        Raises:
            IntegrityError: the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            return torch.load(self.path, weights_only=True)
        except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise IntegrityError(f"checkpoint {self.path} cannot be read: {error}; delete it to start anew") from error
