"""Calling a module with named arrays, and naming what it returns.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from enginery.errors import PassError
from enginery.passes.base import Feeds

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Tensors = dict[str, torch.Tensor]


def device_of(module: torch.nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU where there is none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def as_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    # A copy: arrays from files can be read-only, and torch must not write into the data set.
    return torch.from_numpy(np.array(array, copy=True)).to(device)


def as_tensors(feeds: Feeds, device: torch.device) -> Tensors:
    return {name: as_tensor(array, device) for name, array in feeds.items()}


def named_outputs(returned: Any) -> Tensors:
    """The tensors of a module's return value by name: a mapping's keys, or `0`, `1`, ... for a tensor or a sequence."""
    if isinstance(returned, torch.Tensor):
        return {"0": returned}
    if isinstance(returned, Mapping):
        items = [(str(key), value) for key, value in returned.items()]
    elif isinstance(returned, (tuple, list)):
        items = [(str(index), value) for index, value in enumerate(returned)]
    else:
        raise PassError(
            f"the module returned a {type(returned).__name__}; expected a tensor, or a sequence or mapping of tensors"
        )
    tensors = {name: value for name, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        raise PassError("the module returned no tensor")
    return tensors


def run(module: torch.nn.Module, inputs: Tensors) -> Tensors:
    """Call the module with inputs by forward-argument name."""
    return named_outputs(module(**inputs))


@torch.no_grad()
def infer(module: torch.nn.Module, feeds: Feeds) -> Tensors:
    """Outputs in eval mode, without gradients; the module's own mode is restored."""
    was_training = module.training
    module.eval()
    try:
        return run(module, as_tensors(feeds, device_of(module)))
    finally:
        module.train(was_training)


def infer_hooked(module: torch.nn.Module, batches: Iterable[Feeds], handles: Sequence[RemovableHandle]) -> None:
    """Run every batch for what the hooks behind `handles` see, then remove them."""
    try:
        for feeds in batches:
            infer(module, feeds)
    finally:
        for handle in handles:
            handle.remove()
