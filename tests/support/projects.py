"""Small Python projects on disk, as users have them: files of code, a source that names one of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from enginery.pipeline.recipe import Source
from enginery.pipeline.source import Original, load_original

NET = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.linear = torch.nn.Linear(3, width)

        def forward(self, x):
            return self.linear(x)

    def build(width=4):
        return Net(width)
"""


def write(folder: Path, files: Mapping[str, str] | None = None, **modules: str) -> Path:
    """Write files by path, and top-level modules by name."""
    for name, text in {**(files or {}), **{f"{name}.py": text for name, text in modules.items()}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def load(folder: Path, factory: str = "model.py:build", *, seed: int = 0, **source: object) -> Original:
    return load_original(Source(factory=factory, **source), folder, trust=False, seed=seed)  # type: ignore[arg-type]
