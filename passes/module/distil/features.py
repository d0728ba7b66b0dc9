"""Hidden states of teacher and student, caught by hooks.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from typing import Self

import torch

from enginery.errors import PassError
from enginery.passes.base import Feeds
from enginery.passes.module.distil.hooked import Hooked
from enginery.passes.module.outputs import infer


class Features(Hooked):
    """Within its `with` block, keeps the last output of each named layer in `teacher` and `student`."""

    def __init__(self, teacher: torch.nn.Module, student: torch.nn.Module, pairs: list[tuple[str, str]]) -> None:
        super().__init__()
        self.modules = {"teacher": teacher, "student": student}
        self.pairs = pairs
        self.caught: dict[str, dict[str, torch.Tensor]] = {"teacher": {}, "student": {}}

    def __enter__(self) -> Self:
        for teacher_layer, student_layer in self.pairs:
            self._hook("teacher", teacher_layer)
            self._hook("student", student_layer)
        return self

    def _hook(self, role: str, path: str) -> None:
        layers = dict(self.modules[role].named_modules())
        if path not in layers:
            near = [name for name in layers if name.count(".") <= path.count(".") and name][:8]
            raise PassError(f"hidden names {path!r}, which the {role} does not have; available: {', '.join(near)}, ...")

        def catch(_layer: torch.nn.Module, _args: object, output: object) -> None:
            given = output[0] if isinstance(output, tuple) else output
            if not isinstance(given, torch.Tensor):
                raise PassError(f"hidden names {path!r} of the {role}, whose output is no tensor")
            self.caught[role][path] = given

        self.handles.append(layers[path].register_forward_hook(catch))

    def pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The last outputs (teacher's, student's) of the pair."""
        teacher_layer, student_layer = self.pairs[index]
        return self.caught["teacher"][teacher_layer].detach(), self.caught["student"][student_layer]

    def projections(self, example: Feeds, match: str) -> torch.nn.ModuleList:
        """One module a pair that takes the student's feature to the teacher's width: a linear map, or the identity.

        Raises:
            PassError: the features of a pair differ in more than their width.
        """
        if self.pairs:
            infer(self.modules["teacher"], example)
            infer(self.modules["student"], example)
        return torch.nn.ModuleList(self._projection(index, match) for index in range(len(self.pairs)))

    def _projection(self, index: int, match: str) -> torch.nn.Module:
        teacher, student = self.pair(index)
        axis = channel_axis(teacher)
        fits = teacher.dim() == student.dim() and all(
            a == b for i, (a, b) in enumerate(zip(teacher.shape, student.shape, strict=True)) if i != axis
        )
        if not fits:
            names = "->".join(self.pairs[index])
            raise PassError(
                f"hidden {names}: shapes {tuple(teacher.shape)} and {tuple(student.shape)} differ in more than the "
                "width; name layers of the same resolution"
            )
        wide, narrow = teacher.shape[axis], student.shape[axis]
        if wide == narrow or match != "mse":
            return torch.nn.Identity()
        projection: torch.nn.Module = torch.nn.Linear(narrow, wide)
        if teacher.dim() == 4:
            projection = torch.nn.Conv2d(narrow, wide, 1)
        return projection.to(student.device)


def channel_axis(feature: torch.Tensor) -> int:
    """1 for images (batch, channels, height, width), the last otherwise."""
    return 1 if feature.dim() == 4 else feature.dim() - 1
