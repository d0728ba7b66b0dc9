"""What is measured: models, shapes, and what was asked of ours at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Shape:
    """One point: sizes of the dynamic dimensions, and the ratios asked for with int8 allowed and without."""

    name: str
    sizes: Mapping[str, int]
    integer: float
    floating: float


@dataclass(frozen=True)
class Case:
    """A model: a built-in recipe's name or a recipe file, and whether it is a transformer encoder of text."""

    recipe: str
    shapes: tuple[Shape, ...]
    text: bool = False


CASES: Mapping[str, Case] = {
    "minilm": Case(
        "minilm",
        (
            Shape("b1s32", {"batch": 1, "seq": 32}, 0.31, 0.51),
            Shape("b1s128", {"batch": 1, "seq": 128}, 0.33, 0.52),
            Shape("b8s128", {"batch": 8, "seq": 128}, 0.28, 0.41),
        ),
        text=True,
    ),
    "resnet50": Case(
        str(RECIPES / "resnet50.yaml"),
        (Shape("b1", {"batch": 1}, 0.28, 0.53), Shape("b8", {"batch": 8}, 0.26, 0.51)),
    ),
    "mobilenetv2": Case(str(RECIPES / "mobilenetv2.yaml"), (Shape("b1", {"batch": 1}, 0.47, 0.56),)),
    "vit_small": Case(
        str(RECIPES / "vit_small.yaml"),
        (Shape("b1", {"batch": 1}, 0.41, 0.63), Shape("b8", {"batch": 8}, 0.29, 0.46)),
    ),
}


def feeds_of(case: Case, shape: Shape) -> dict[str, np.ndarray]:
    """Seeded inputs of one shape; texts fill the whole sequence."""
    generator = np.random.default_rng(0)
    if case.text:
        size = (shape.sizes["batch"], shape.sizes["seq"])
        return {"input_ids": generator.integers(1000, 20000, size), "attention_mask": np.ones(size, np.int64)}
    return {"x": generator.standard_normal((shape.sizes["batch"], 3, 224, 224), np.float32)}


def save_feeds(path: Path, batches: list[dict[str, Any]]) -> Path:
    """Batches in one file, as `<index>/<input>`, for programs in other environments."""
    np.savez(path, **{f"{index}/{name}": array for index, feeds in enumerate(batches) for name, array in feeds.items()})
    return path


def load_feeds(path: Path) -> list[dict[str, np.ndarray]]:
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            index, name = key.split("/", 1)
            found.setdefault(int(index), {})[name] = file[key]
    return [found[index] for index in sorted(found)]
