"""Exponential moving average of a module's parameters and buffers.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

State = dict[str, torch.Tensor]


def snapshot(module: torch.nn.Module) -> State:
    """A copy of the module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


class Average:
    """Averages every floating-point tensor of the state; others, such as batch counters, follow the module.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)), so that a short training is not held at its start.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = snapshot(module)

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def applied(self, module: torch.nn.Module) -> Generator[None]:
        """The module with averaged weights inside the block, with its own again after it."""
        own = snapshot(module)
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(own)
