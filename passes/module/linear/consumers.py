"""Which layer reads what another one gives, watched in one run.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from enginery.passes.base import Feeds
from enginery.passes.module.layers import Layers
from enginery.passes.module.outputs import infer

PASSING = (torch.nn.Identity, torch.nn.Dropout)
"""Layers that give what they are given when a model answers."""


@dataclass(frozen=True)
class Link:
    """`reader` is called with the output of `giver`; `alone` says that nothing else reads it."""

    giver: str
    reader: str
    alone: bool


@dataclass
class _Watch(TorchFunctionMode):
    """Counts how often torch functions are given each watched tensor. `held` keeps them alive: ids stay unique."""

    owner: dict[int, str] = field(default_factory=dict[int, str])
    uses: Counter[str] = field(default_factory=Counter[str])
    calls: Counter[str] = field(default_factory=Counter[str])
    read: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    held: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    passing: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.passing:
            self.count((args, kwargs))
        return func(*args, **(kwargs or {}))

    def count(self, tree: Any) -> None:
        for leaf in pytree.tree_leaves(tree):
            if (name := self.owner.get(id(leaf))) is not None:
                self.uses[name] += 1

    def gives(self, name: str, output: torch.Tensor) -> None:
        self.held.append(output)
        self.owner[id(output)] = name


def links(module: torch.nn.Module, layers: Layers, example: Feeds) -> list[Link]:
    """The pairs of `layers` of which one reads the other's output, in the order of the run.

    A layer that is called more than once in a run gives and reads nothing here.
    """
    watch = _Watch()
    passing = [layer for layer in module.modules() if isinstance(layer, PASSING)]
    handles = [*_hooks(watch, layers), *_passing_hooks(watch, passing)]
    try:
        with watch:
            outputs = infer(module, example)
        watch.count(list(outputs.values()))
    finally:
        for handle in handles:
            handle.remove()
    return [
        Link(giver, reader, alone=watch.uses[giver] == 1)
        for reader, givers in watch.read.items()
        for giver in givers
        if watch.calls[giver] == watch.calls[reader] == 1
    ]


def _hooks(watch: _Watch, layers: Layers) -> Iterable[Any]:
    for name, layer in layers:

        def before(_layer: torch.nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            watch.calls[name] += 1
            if args and (giver := watch.owner.get(id(args[0]))) is not None:
                watch.read.setdefault(name, []).append(giver)

        def after(_layer: torch.nn.Module, _args: object, output: torch.Tensor, name: str = name) -> None:
            watch.gives(name, output)

        yield layer.register_forward_pre_hook(before)
        yield layer.register_forward_hook(after)


def _passing_hooks(watch: _Watch, layers: Iterable[torch.nn.Module]) -> Iterable[Any]:
    def before(_layer: torch.nn.Module, _args: object) -> None:
        watch.passing += 1

    def after(_layer: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        watch.passing -= 1
        giver = watch.owner.get(id(args[0]))
        if giver is not None and output is not args[0]:
            watch.gives(giver, output)

    for layer in layers:
        yield layer.register_forward_pre_hook(before)
        yield layer.register_forward_hook(after)
