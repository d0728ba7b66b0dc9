"""Attention maps of teacher and student, computed from what their query and key projections give.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from typing import Self

import torch

from enginery.errors import PassError
from enginery.passes.module.distil.hooked import Hooked
from enginery.passes.module.distil.mapping import Pairs
from enginery.passes.module.outputs import Tensors
from enginery.passes.module.prune.attention_names import COUNTS, NAMES


class Maps(Hooked):
    """Within its `with` block, keeps the last queries and keys of the named attentions in `teacher` and `student`.

    The maps are made here, since fused attention never shows its own. Rotary positions, which some models apply
    behind the projections, are left out on both sides.
    """

    def __init__(self, teacher: torch.nn.Module, student: torch.nn.Module, pairs: Pairs) -> None:
        super().__init__()
        self.modules = (teacher, student)
        self.pairs = pairs
        self.heads: dict[tuple[int, str], int] = {}
        self.caught: dict[tuple[int, str, int], torch.Tensor] = {}

    def __enter__(self) -> Self:
        for pair in self.pairs:
            for role, path in enumerate(pair):
                self._hook(role, path)
        return self

    def _hook(self, role: int, path: str) -> None:
        who = ("teacher", "student")[role]
        found = dict(self.modules[role].named_modules()).get(path)
        if found is None:
            raise PassError(f"attention names {path!r}, which the {who} does not have")
        children = dict(found.named_children())
        names = next((names for names in NAMES if all(name in children for name in names)), None)
        heads = next((n for key in COUNTS if isinstance(n := getattr(found, key, None), int)), None)
        if names is None or heads is None:
            raise PassError(
                f"attention names {path!r} of the {who}; expected a module with linear children such as "
                f"{'/'.join(NAMES[0])} and a head count in an attribute ({', '.join(COUNTS)})"
            )
        self.heads[role, path] = heads
        for index in range(2):
            self.handles.append(children[names[index]].register_forward_hook(self._catch(role, path, index)))

    def _catch(self, role: int, path: str, index: int):  # noqa: ANN202  # the hook's type is torch's own
        def catch(_layer: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
            self.caught[role, path, index] = output

        return catch

    def loss(self, index: int, inputs: Tensors) -> torch.Tensor:
        """The divergence of the student's map from the teacher's, mean over queries; heads are averaged if they differ.

        Padded positions do not count, where `inputs` holds an `attention_mask` (batch, positions).
        """
        teacher, student = self.pairs[index]
        wanted, given = self._map(0, teacher, inputs).detach(), self._map(1, student, inputs)
        if wanted.shape[-1] != given.shape[-1]:
            raise PassError(
                f"attention {teacher}->{student}: maps of {wanted.shape[-1]} and {given.shape[-1]} positions"
            )
        if wanted.shape[1] != given.shape[1]:
            wanted, given = wanted.mean(1, keepdim=True), given.mean(1, keepdim=True)
        tiny = torch.finfo(torch.float32).tiny
        divergence = (wanted * (wanted.clamp_min(tiny).log() - given.clamp_min(tiny).log())).sum(-1)
        valid = _valid(inputs, divergence)
        return divergence.mean() if valid is None else (divergence * valid).sum() / (valid.sum() * divergence.shape[1])

    def _map(self, role: int, path: str, inputs: Tensors) -> torch.Tensor:
        """(batch, heads, positions, positions), rows that sum to 1."""
        query, key = (self.caught[role, path, index].float() for index in range(2))
        width = query.shape[-1] // self.heads[role, path]
        query, key = (x.unflatten(-1, (-1, width)).transpose(1, 2) for x in (query, key))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)  # fewer key heads serve several query heads
        scores = query @ key.transpose(-1, -2) * width**-0.5
        mask = _valid(inputs, scores[..., 0])
        return (
            scores.masked_fill(mask[..., None, :] == 0, float("-inf")).softmax(-1)
            if mask is not None
            else (scores.softmax(-1))
        )


def _valid(inputs: Tensors, rows: torch.Tensor) -> torch.Tensor | None:
    """1 for valid positions, (batch, 1, positions), to go with `rows` (batch, heads, positions)."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != (rows.shape[0], rows.shape[2]):
        return None
    return (mask != 0).to(rows.dtype)[:, None]
