"""Recipes of a small multilayer perceptron, with its ONNX file and data, that build in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from enginery.engines.base import Arrays
from enginery.pipeline.build import BuildResult, build
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.recipe.file import load_recipe

WIDTH, HIDDEN, CLASSES = 32, 64, 4
Weights = dict[str, np.ndarray]


def weights(seed: int = 0) -> Weights:
    generator = np.random.default_rng(seed)
    return {
        "w1": generator.standard_normal((WIDTH, HIDDEN)).astype(np.float32) / WIDTH**0.5,
        "b1": generator.standard_normal(HIDDEN).astype(np.float32) * 0.1,
        "w2": generator.standard_normal((HIDDEN, CLASSES)).astype(np.float32) / HIDDEN**0.5,
        "b2": generator.standard_normal(CLASSES).astype(np.float32) * 0.1,
    }


def answer(x: np.ndarray, values: Weights) -> np.ndarray:
    return np.maximum(x @ values["w1"] + values["b1"], 0) @ values["w2"] + values["b2"]


def write_onnx(path: Path, values: Weights, batch: int | str = "batch") -> None:
    """Write y = relu(x·w1 + b1)·w2 + b2, with x [batch, 32] and y [batch, 4]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], "first"),
        helper.make_node("Add", ["m1", "b1"], ["a1"], "first_bias"),
        helper.make_node("Relu", ["a1"], ["r1"], "activation"),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], "second"),
        helper.make_node("Add", ["m2", "b2"], ["y"], "second_bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def data(samples: int, seed: int, values: Weights) -> Arrays:
    """Inputs, and the labels that the model itself gives: its top-1 accuracy is 1."""
    x = np.random.default_rng(seed).standard_normal((samples, WIDTH)).astype(np.float32)
    return {"x": x, "labels": answer(x, values).argmax(1).astype(np.int64)}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Write a recipe with its model and data into `folder` and return the recipe's path.

    `changes` replace keys of the recipe; None takes one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = weights()
    write_onnx(folder / "model.onnx", values)
    np.savez(folder / "calibration.npz", x=data(64, 1, values)["x"])
    evaluation = data(48, 2, values)
    np.savez(folder / "evaluation.npz", x=evaluation["x"], labels=evaluation["labels"])
    recipe: dict[str, Any] = {
        "name": "tiny",
        "source": {"onnx": "model.onnx"},
        "inputs": {"x": {"dtype": "float32", "shape": ["batch", WIDTH]}},
        "dims": {"batch": {"min": 1, "opt": 8, "max": 16}},
        "data": {"calibration": {"npz": "calibration.npz"}, "evaluation": {"npz": "evaluation.npz"}},
        # A model of microseconds: its speed says nothing, and a test must not depend on it.
        "speed": {"required": False},
    }
    recipe = {key: value for key, value in {**recipe, **changes}.items() if value is not None}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.second = nn.Linear(64, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def build():
    return Net()
"""


def write_module_recipe(folder: Path, source: str = MODULE, **changes: Any) -> Path:
    """The same data with an `nn.Module` from `source`, a file with a factory `build`."""
    path = write_recipe(folder, **{"source": {"factory": "net.py:build"}, **changes})
    (folder / "net.py").write_text(source, encoding="utf-8")
    return path


class Recorder(Events):
    """Remembers what a build told its listener."""

    def __init__(self) -> None:
        self.ran: dict[str, str] = {}
        self.kept: list[str] = []
        self.notes: list[str] = []

    def started(self, stage: StageName, why: str) -> None:
        self.ran[str(stage)] = why

    def reused(self, stage: StageName, why: str) -> None:
        self.kept.append(str(stage))

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_build(recipe: Path, output: Path, events: Events | None = None, **options: Any) -> BuildResult:
    """Build, measuring the speed no longer than the fewest pairs take."""
    return build(load_recipe(str(recipe)), output=output, events=events, **{"benchmark_seconds": 0.0, **options})


INT8 = {"precision": "int8"}


def stages_run(recipe: Path, output: Path, **options: Any) -> dict[str, str]:
    """Build, and return the stages that ran, each with the reason."""
    events = Recorder()
    run_build(recipe, output, events, **options)
    return events.ran


def change(recipe: Path, **changes: Any) -> None:
    """Set keys of a recipe's file."""
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **changes}, sort_keys=False))
