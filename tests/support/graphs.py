"""Small ONNX graphs as text, and the one check that every graph pass must survive.

Text is ONNX's own syntax: `g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from enginery.engines.onnxruntime import open_model
from enginery.passes.base import PassResult
from enginery.passes.difference import measure
from enginery.passes.graph.ir import export_model, import_model, load_graph, save_graph
from enginery.passes.graph.shapes import infer_shapes
from enginery.passes.sequence import check

SIZES = (1, 2, 5)


def parse_model(text: str, *, opset: int = 20, functions: str = "", ir_version: int = 10) -> onnx.ModelProto:
    imports = f'"" : {opset}, "com.microsoft" : 1' + (', "local" : 1' if functions else "")
    return onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> {text} {functions}")


def parse(text: str, **options: Any) -> gs.Graph:
    """A graph from ONNX text, with shapes inferred."""
    graph = import_model(parse_model(text, **options), Path())
    infer_shapes(graph)
    return graph


def ops(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def attributes(graph: gs.Graph, op: str) -> dict[str, Any]:
    """The attributes of the only node of that type."""
    (node,) = (node for node in graph.nodes if node.op == op)
    return dict(node.attrs)


def reasons(result: PassResult) -> str:
    return "\n".join(str(refusal) for refusal in result.refusals)


def feeds_for(model: onnx.ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded random inputs; every named dimension gets its size. Integers are 0 or 1, so that they may be indices."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else sizes[d.dim_param] for d in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
            feeds[value.name] = values.astype(dtype)
    return feeds


@dataclass
class Applied:
    graph: gs.Graph
    result: PassResult

    @property
    def ops(self) -> list[str]:
        return ops(self.graph)

    @property
    def reasons(self) -> str:
        return reasons(self.result)


def apply(
    graph_pass: Any,
    model: str | onnx.ModelProto,
    folder: Path,
    *,
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    tolerance: float = 1e-5,
    **options: Any,
) -> Applied:
    """Apply a pass and demand: a valid model, the same numbers at several sizes, and no change on a second run."""
    proto = parse_model(model, **options) if isinstance(model, str) else model
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(proto, before)
    graph = load_graph(before)
    infer_shapes(graph)
    result = graph_pass.apply(graph)
    check(graph)
    infer_shapes(graph)
    save_graph(graph, after)
    onnx.checker.check_model(after, full_check=False)
    _same_numbers(proto, before, after, feeds, tolerance)
    text = onnx.printer.to_text(export_model(graph))
    again = graph_pass.apply(graph)
    assert again.changed == 0, "the second run changed something"
    assert onnx.printer.to_text(export_model(graph)) == text
    return Applied(load_graph(after), result)


def _same_numbers(
    proto: onnx.ModelProto,
    before: Path,
    after: Path,
    feeds: Sequence[Mapping[str, np.ndarray]] | None,
    tolerance: float,
) -> None:
    names = sorted({d.dim_param for v in proto.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param})
    if feeds is None:
        sizes = [{name: SIZES[(i + j) % len(SIZES)] for j, name in enumerate(names)} for i in range(len(SIZES))]
        feeds = [feeds_for(proto, each, seed) for seed, each in enumerate(sizes if names else [{}])]
    old, new = open_model(before, optimize=False), open_model(after, optimize=False)
    scales: dict[str, float] = {}
    for feed in feeds:
        expected, actual = old(feed), new(feed)
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            difference = measure(name, value, actual[name])
            assert difference.relative <= tolerance, difference
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                scales[name] = max(scales.get(name, 0.0), float(np.abs(value).max()))
    assert all(scale > 1e-3 for scale in scales.values()), "outputs near zero would prove nothing"
