"""The reference: the original model in PyTorch, behind the same session protocol as the engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from enginery.engines.base import Arrays, DimRange, Feeds, Session, TensorSpec
from enginery.errors import EngineError

if TYPE_CHECKING:
    import torch

FAILURES: Final = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError)
"""What a model's own code raises on inputs that it cannot take."""


class PyTorchSession(Session):
    """Runs an `nn.Module` in evaluation and inference mode.

    Feeds are the forward's arguments by name. The forward may return a tensor, a sequence of tensors or a mapping
    (a `ModelOutput` of transformers is one): a mapping is read by output name, the others by position.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        dims: Mapping[str, DimRange],
    ) -> None:
        super().__init__(inputs, outputs, dims)
        self.module = module.eval()

    def _run(self, feeds: Feeds) -> Arrays:
        import torch

        tensors = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in feeds.items()}
        try:
            with torch.inference_mode():
                result = self.module(**tensors)
        except FAILURES as error:
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise EngineError(f"The original failed on inputs of shape {shapes}: {error}") from error
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._named(result).items()}

    def describe(self) -> dict[str, Any]:
        import torch

        return {"runtime": "pytorch", "version": str(torch.__version__), "threads": torch.get_num_threads()}

    def _named(self, result: Any) -> dict[str, torch.Tensor]:
        import torch

        names = [spec.name for spec in self.outputs]
        if isinstance(result, torch.Tensor):
            result = (result,)
        if isinstance(result, Mapping):
            if missing := [name for name in names if name not in result]:
                raise EngineError(f"The original returns {sorted(result)}; the recipe's outputs {missing} are absent.")
            named = {name: result[name] for name in names}
        elif isinstance(result, Sequence) and len(result) == len(names):
            named = dict(zip(names, result, strict=True))
        else:
            given = f"{len(result)} values" if isinstance(result, Sequence) else f"a {type(result).__name__}"
            raise EngineError(f"The original returns {given}; {len(names)} tensors are expected: {names}.")
        for name, value in named.items():
            if not isinstance(value, torch.Tensor):
                raise EngineError(f"Output {name!r} of the original is a {type(value).__name__}; a tensor is expected.")
        return named
