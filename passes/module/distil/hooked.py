"""What listens to a module by hooks, and stops when its `with` block ends."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Hooked:
    """Owns `handles`, which `__enter__` of a subclass fills, and removes them at the end."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self.handles:
            handle.remove()
