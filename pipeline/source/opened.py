"""The original, opened when a stage first needs it: a build whose results are all stored loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.engines.base import Arrays, DimRange, Feeds, Session, TensorSpec
from enginery.errors import SourceError
from enginery.pipeline.recipe import Source

if TYPE_CHECKING:
    import torch

    from enginery.passes.base import RunModel
    from enginery.pipeline.source import Original


class LiteralSession(Session):
    """An ONNX file as it stands: the runtime's own optimizations are off."""

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        dims: Mapping[str, DimRange],
    ) -> None:
        from enginery.engines.onnxruntime import open_model

        super().__init__(inputs, outputs, dims)
        self._model: RunModel = open_model(path)

    def _run(self, feeds: Feeds) -> Arrays:
        return self._model(feeds)

    def describe(self) -> dict[str, Any]:
        return {"runtime": "onnxruntime", "provider": "CPUExecutionProvider", "optimization": "disabled"}


class LazyOriginal:
    """Loads an original at most once."""

    def __init__(self, source: Source, folder: Path, inputs: tuple[TensorSpec, ...], *, seed: int, trust: bool) -> None:
        self._source = source
        self._folder = folder
        self._inputs = inputs
        self._seed = seed
        self._trust = trust
        self._original: Original | None = None

    def get(self) -> Original:
        if self._original is None:
            self._original = self._load()
        return self._original

    def fresh(self) -> torch.nn.Module | None:
        """A copy of the module that nobody else holds; None for an ONNX source."""
        return self._load().module

    def _load(self) -> Original:
        from enginery.pipeline.source import load_original

        names = [spec.name for spec in self._inputs]
        return load_original(self._source, self._folder, trust=self._trust, seed=self._seed, inputs=names)

    def check_digest(self, expected: str) -> None:
        """Raise SourceError when loading gives other weights than the stored results were made from."""
        found = self.get().weights_digest
        if found != expected:
            raise SourceError(
                f"The source gave other weights than before ({found[:12]}, stored {expected[:12]}) though nothing it "
                "depends on changed. Fix its random seed, or pin its weights in a file."
            )

    def session(self, outputs: Sequence[TensorSpec]) -> Session:
        """The original as a session that returns `outputs`; an ONNX file returns all it has.

        Sizes are not checked against a range: whoever asks wants to know what happens.
        """
        original = self.get()
        if original.onnx is not None:
            return LiteralSession(original.onnx, self._inputs, tuple(outputs), {})
        assert original.module is not None
        return module_session(original.module, self._inputs, tuple(outputs))


def module_session(module: torch.nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Session:
    """Open an `nn.Module` as a session, for any sizes."""
    from enginery.engines.pytorch import PyTorchSession

    return PyTorchSession(module, inputs, outputs, {})


def discover_outputs(module: torch.nn.Module, feeds: Feeds) -> tuple[str, ...]:
    """The names of a module's outputs: keys of a mapping, else `output`, or `output_0`, `output_1`, ….

    Raises:
        SourceError: the module fails, or returns something that is neither a tensor nor tensors.
    """
    import numpy as np
    import torch

    from enginery.engines.pytorch import FAILURES

    tensors = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in feeds.items()}
    try:
        with torch.inference_mode():
            result = module.eval()(**tensors)
    except FAILURES as error:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise SourceError(
            f"The original fails on inputs of shape {shapes}: {error} Correct `inputs` and `dims` in the recipe: a "
            "size that is baked into the model must be fixed there."
        ) from error
    if isinstance(result, torch.Tensor):
        return ("output",)
    if isinstance(result, Mapping):
        return tuple(str(name) for name, value in result.items() if isinstance(value, torch.Tensor))
    if isinstance(result, Sequence) and result and all(isinstance(value, torch.Tensor) for value in result):
        return tuple(f"output_{index}" for index in range(len(result)))
    odd = list(enumerate(result)) if isinstance(result, Sequence) and not isinstance(result, str) else []
    where = next((f" with a {type(v).__name__} at {i}" for i, v in odd if not isinstance(v, torch.Tensor)), "")
    raise SourceError(
        f"The model returns a {type(result).__name__}{where}; expected a tensor, a sequence of tensors or a mapping "
        "with tensors. Wrap the model in a factory that returns tensors."
    )
