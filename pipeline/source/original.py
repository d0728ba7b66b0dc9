"""The original: the model as its author trained it, the reference of every comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Original:
    """A loaded source. Exactly one of `module` (in eval mode) and `onnx` (a checked file) is set.

    `weights_digest` is the sha256 of the weights' file, or of the parameters where they come in no file of their own.
    `provenance` is JSON-ready and names no place on this machine. `preparation` lists, by name, what was done to the
    model so that it can be exported; the report shows it.
    """

    kind: str
    weights_digest: str
    module: torch.nn.Module | None = None
    onnx: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    preparation: tuple[str, ...] = ()


def parameters_digest(module: torch.nn.Module) -> str:
    """sha256 of the names, dtypes, shapes and bytes of a module's state, in order of names."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue  # extra state of a module: no weights
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
