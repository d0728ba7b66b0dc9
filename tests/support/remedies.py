"""Applies one remedy to one model, as quantization would."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from quantizable import Batches, calibrate, run_all

from enginery.engines.onnxruntime import open_model
from enginery.passes.base import PassResult
from enginery.passes.calibration import make_observer
from enginery.passes.graph.ir import load_graph
from enginery.passes.quantize import QuantizeOptions, get_policy
from enginery.passes.quantize.context import QuantizeContext, Remedy
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.remedies import name_nodes


class Patient:
    """A model under treatment: `float_model` before placement, `placed` with Q/DQ pairs and float weights."""

    def __init__(self, model: Path, batches: Batches, policy: str = "onnxruntime-cpu", **options: Any) -> None:
        self.model, self.batches = model, batches
        self.folder = Path(tempfile.mkdtemp(dir=model.parent))
        self.context = QuantizeContext(
            policy=get_policy(policy),
            options=QuantizeOptions(**options),
            observer=make_observer("minmax"),
            tensors=dict(calibrate(model, batches).tensors),
            open_model=open_model,
            batches=batches,
            workdir=self.folder,
        )
        graph = load_graph(model)
        name_nodes(graph)
        self.context.float_model = self.context.write(graph, "float")

    def treat(self, *remedies: Remedy) -> list[PassResult]:
        """Apply remedies of both kinds around the placement; `placed` is the result."""
        assert self.context.float_model is not None
        graph = load_graph(self.context.float_model)
        results = [remedy.apply(graph, self.context) for remedy in remedies if remedy.when == "before"]
        self.context.float_model = self.context.write(graph, "float")
        graph = load_graph(self.context.float_model)
        plan = make_plan(graph, self.context.policy, self.context.options, self.context.tensors)
        place(graph, plan, self.context.policy, self.context.observer, self.context.tensors)
        results += [remedy.apply(graph, self.context) for remedy in remedies if remedy.when == "after"]
        self.placed = self.context.write(graph, "placed")
        return results

    def float_outputs(self) -> np.ndarray:
        """Of the float model as the remedies left it."""
        assert self.context.float_model is not None
        return run_all(self.context.float_model, self.batches)

    def outputs(self) -> np.ndarray:
        return run_all(self.placed, self.batches)

    def reference(self) -> np.ndarray:
        return run_all(self.model, self.batches)
