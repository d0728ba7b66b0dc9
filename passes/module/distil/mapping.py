"""Which layer of the teacher a layer of the student learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginery.errors import PassError

if TYPE_CHECKING:
    import torch

Pairs = list[tuple[str, str]]


def expand(option: str, texts: tuple[str, ...], teacher: torch.nn.Module, student: torch.nn.Module, rule: str) -> Pairs:
    """`teacher.path->student.path` as pairs of names; a `*` on both sides stands for the number of a layer.

    Of T layers of the teacher, layer i of the student's S learns from (i + 1) * T // S - 1 by `uniform` (Jiao et al.
    2020, "TinyBERT"), from T - S + i by `last`, from i by `first`.

    Raises:
        PassError: one side has a `*` and the other has none, or the student has more layers than the teacher.
    """
    found: Pairs = []
    for text in texts:
        wide, narrow = (part.strip() for part in text.split("->"))
        if "*" not in wide and "*" not in narrow:
            found.append((wide, narrow))
            continue
        if wide.count("*") != 1 or narrow.count("*") != 1:
            raise PassError(f"{option} has {text!r}; expected one * on either side, for the number of the layer")
        have, want = _count(teacher, wide), _count(student, narrow)
        if not 0 < want <= have:
            raise PassError(f"{option} has {text!r}: the teacher has {have} such layers, the student {want}")
        for i in range(want):
            j = {"uniform": (i + 1) * have // want - 1, "last": have - want + i, "first": i}[rule]
            found.append((wide.replace("*", str(j)), narrow.replace("*", str(i))))
    return found


def _count(module: torch.nn.Module, path: str) -> int:
    """How many of path.0, path.1, ... there are."""
    names = {name for name, _ in module.named_modules()}
    count = 0
    while path.replace("*", str(count)) in names:
        count += 1
    return count
