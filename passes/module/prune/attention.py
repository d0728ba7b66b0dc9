"""Recognizing attention by its linear layers, and cutting heads out of it.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from enginery.passes.base import Refusal
from enginery.passes.module.finish import is_plain
from enginery.passes.module.prune.attention_names import COUNTS, NAMES, OUTPUTS
from enginery.passes.module.prune.gradients import taylor


@dataclass(frozen=True)
class Attention:
    name: str
    module: torch.nn.Module
    counter: str
    heads: int
    inputs: tuple[torch.nn.Linear, torch.nn.Linear, torch.nn.Linear]
    output: torch.nn.Linear

    @property
    def width(self) -> int:
        return self.inputs[0].out_features // self.heads

    @torch.no_grad()
    def scores(self, criterion: str, seed: int) -> torch.Tensor:
        """One score a head: the product of the norms of its value rows and its output columns.

        For `taylor`, whose gradients have to be there, the sum of both parts' first-order effects on the loss.
        """
        if criterion == "random":
            return torch.rand(self.heads, generator=torch.Generator().manual_seed(seed))
        if criterion == "taylor":
            rows, columns = taylor(self.inputs[2].weight), taylor(self.output.weight).T
            return (rows.reshape(self.heads, -1).sum(1) + columns.reshape(self.heads, -1).sum(1)).cpu()
        p = 1 if criterion == "l1" else 2
        rows = self.inputs[2].weight.reshape(self.heads, -1).norm(p=p, dim=1)
        columns = self.output.weight.T.reshape(self.heads, -1).norm(p=p, dim=1)
        return (rows * columns).cpu()


def find(module: torch.nn.Module, pattern: str) -> tuple[list[Attention], list[Refusal]]:
    """Attentions whose dotted name matches `pattern`, and those that cannot be cut."""
    expression = re.compile(pattern)
    found: list[Attention] = []
    refusals: list[Refusal] = []
    for name, candidate in module.named_modules():
        if not expression.fullmatch(name):
            continue
        if isinstance(candidate, torch.nn.MultiheadAttention):
            refusals.append(Refusal(name, "torch.nn.MultiheadAttention ties the sum of the heads to its input's width"))
            continue
        inputs = _inputs(candidate)
        counter = next((key for key in COUNTS if isinstance(getattr(candidate, key, None), int)), None)
        if inputs is None:
            continue
        if counter is None:
            refusals.append(Refusal(name, f"it keeps no head count in an attribute ({', '.join(COUNTS)})"))
            continue
        outcome = _attention(module, name, candidate, counter, inputs)
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
        else:
            found.append(outcome)
    return found, refusals


def _inputs(candidate: torch.nn.Module) -> tuple[torch.nn.Linear, torch.nn.Linear, torch.nn.Linear] | None:
    children = dict(candidate.named_children())
    for q, k, v in NAMES:
        layers = (children.get(q), children.get(k), children.get(v))
        if all(isinstance(layer, torch.nn.Linear) for layer in layers):
            return layers  # type: ignore[return-value]  # checked in the line above
    return None


def _attention(
    root: torch.nn.Module,
    name: str,
    candidate: torch.nn.Module,
    counter: str,
    inputs: tuple[torch.nn.Linear, torch.nn.Linear, torch.nn.Linear],
) -> Attention | Refusal:
    heads = getattr(candidate, counter)
    width = inputs[0].out_features
    if any(layer.out_features != width for layer in inputs):
        return Refusal(name, "it has fewer key and value heads than query heads")
    if heads < 1 or width % heads:
        return Refusal(name, f"{counter}={heads} does not divide the query's {width} channels")
    output = _output(root, name, candidate, width)
    if output is None:
        return Refusal(name, f"no output projection with {width} inputs was found among {', '.join(OUTPUTS)}")
    for layer in (*inputs, output):
        if not is_plain(layer):
            return Refusal(name, "one of its weights is masked or shared by an earlier pass")
    return Attention(name, candidate, counter, heads, inputs, output)


def _output(root: torch.nn.Module, name: str, candidate: torch.nn.Module, width: int) -> torch.nn.Linear | None:
    parent = root.get_submodule(name.rpartition(".")[0])
    for place in (candidate, parent):
        modules = dict(place.named_modules())
        for path in OUTPUTS:
            layer = modules.get(path)
            if isinstance(layer, torch.nn.Linear) and layer.in_features == width:
                return layer
    return None


@torch.no_grad()
def remove(attention: Attention, kept: list[int]) -> None:
    """Keep only the heads `kept`, in place."""
    width, before = attention.width, attention.heads * attention.width
    rows = torch.tensor([head * width + i for head in kept for i in range(width)])
    for layer in attention.inputs:
        for key, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, key, torch.nn.Parameter(parameter[rows].clone()))
        layer.out_features = len(rows)
    attention.output.weight = torch.nn.Parameter(attention.output.weight[:, rows].clone())
    attention.output.in_features = len(rows)
    for key in COUNTS:
        if getattr(attention.module, key, None) == attention.heads:
            setattr(attention.module, key, len(kept))
    for key in ("all_head_size", "inner_dim"):
        if getattr(attention.module, key, None) == before:
            setattr(attention.module, key, len(rows))
