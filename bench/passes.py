"""What the cleaning passes cost: CPU time and memory against the number of nodes, and memory on a model of 2.5 GB.

Every measurement runs in a process of its own, so that its peak memory is its own. CPU time, not wall time, so that
other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from measure import Ask, conclude, options, print_machine, print_table
from own_memory import peak_mib

SIZES = (5_000, 20_000, 50_000, 100_000)
QUICK_SIZES = (5_000, 20_000)
GIGABYTE = 1_000_000_000


def main() -> int:
    parser = options("What the cleaning passes cost in CPU time and memory, against the number of nodes.")
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.nodes:
        return measure_nodes(given.nodes)
    if given.bytes:
        return measure_bytes(given.bytes)
    print_machine("onnx", "onnx-graphsurgeon")
    results = [child("--nodes", size) for size in (QUICK_SIZES if given.quick else SIZES)]
    rows = [[*(each[key] for key in ("nodes", "left", "seconds", "peak")), micro(each)] for each in results]
    print_table(["nodes", "nodes left", "CPU s", "peak MB", "CPU us per node"], rows)
    large = child("--bytes", int((0.6 if given.quick else 2.5) * GIGABYTE))
    print()
    print_table(["weights GB", "CPU s", "peak MB"], [[large["bytes"] / GIGABYTE, large["seconds"], large["peak"]]])
    at_20k = next(each for each in results if each["nodes"] >= 20_000)
    asks = [
        Ask("CPU seconds of all cleaning passes at 20,000 nodes", at_20k["seconds"], 5),
        Ask("peak MB of all cleaning passes at 20,000 nodes", at_20k["peak"], 500),
        Ask("CPU per node, largest graph over smallest", micro(results[-1]) / micro(results[0]), 1.5),
        Ask(f"peak MB of all default passes on {large['bytes'] / GIGABYTE:.1f} GB of weights", large["peak"], 500),
    ]
    if not given.quick:
        stages = build_seconds("minilm")
        print()
        print_table(["stage of a float32 build of MiniLM", "seconds"], stages.items())
        asks.append(Ask("share of the passes and of the proof of each", stages["optimize"] / sum(stages.values()), 0.2))
    return conclude(asks, check=given.check)


def micro(result: dict[str, float]) -> float:
    return result["seconds"] / result["nodes"] * 1e6


def child(option: str, value: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), option, str(value)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(**figures: float) -> int:
    print(json.dumps(figures | {"peak": peak_mib()}))
    return 0


def measure_nodes(count: int) -> int:
    """All cleaning passes on a graph of `count` nodes; reading and writing the file are not part of it."""
    from enginery.passes.graph import CLEANING, graph_passes
    from enginery.passes.graph.ir import load_graph
    from enginery.passes.spec import parse_pass

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_synthetic(path, count)
        graph = load_graph(path)
        nodes = len(graph.nodes)
        registry = graph_passes()
        start = time.process_time()
        for name in CLEANING:
            parse_pass(name, registry).apply(graph)
        seconds = time.process_time() - start
    return report(nodes=nodes, left=len(graph.nodes), seconds=seconds)


def write_synthetic(path: Path, count: int) -> None:
    """A residual chain with what exporters leave behind: identities, duplicates, casts, transposes, shape towers."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    values: list[onnx.ValueInfoProto] = []

    def add(
        op: str,
        *inputs: str,
        kind: int = TensorProto.FLOAT,
        shape: tuple[int | str, ...] = ("N", "S", 64),
        **attrs: object,
    ) -> str:
        output = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [output], f"n{len(nodes)}", **attrs))
        values.append(helper.make_tensor_value_info(output, kind, shape))
        return output

    x = "x"
    integer = TensorProto.INT64
    while len(nodes) < count:
        a = add("Mul", add("Identity", x), "scale")
        b = add("Mul", x, "scale")
        sizes = [add("Shape", a, kind=integer, shape=(1,), start=i, end=i + 1) for i in range(2)]
        target = add("Concat", *sizes, "heads", "size", kind=integer, shape=(4,), axis=0)
        split = add("Reshape", a, target, shape=("N", "S", 8, 8))
        turned = add("Transpose", split, perm=[0, 2, 1, 3], shape=("N", 8, "S", 8))
        back = add("Transpose", turned, perm=[0, 2, 1, 3], shape=("N", "S", 8, 8))
        whole = add("Reshape", back, add("Concat", *sizes, "width", kind=integer, shape=(3,), axis=0))
        cast = add("Cast", add("Cast", whole, to=TensorProto.DOUBLE, kind=TensorProto.DOUBLE), to=TensorProto.FLOAT)
        add("Neg", cast)  # dead
        x = add("Add", add("Add", cast, add("Exp", "half", shape=())), b)
    graph = helper.make_graph(
        nodes,
        "synthetic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", 64])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", "S", 64])],
        [
            numpy_helper.from_array(np.ones(64, np.float32), "scale"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            *(numpy_helper.from_array(np.array([v]), n) for n, v in (("heads", 8), ("size", 8), ("width", 64))),
        ],
        value_info=[value for value in values if value.name != x],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def measure_bytes(size: int) -> int:
    """Every default pass of a target, and the copy of the weights, on a model whose weights take `size` bytes."""
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes

    def never(model: Path, *, optimize: bool = False) -> object:
        raise AssertionError(f"nothing is proved here, {model} {optimize}")

    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in" / "model.onnx", Path(folder) / "out" / "model.onnx"
        source.parent.mkdir()
        output.parent.mkdir()
        write_large(source, size)
        start = time.process_time()
        run_graph_passes(source, output, default_passes("onnxruntime-cpu"), open_model=never, prove="off")  # type: ignore[arg-type]
        seconds = time.process_time() - start
        copied = output.with_name("model.onnx.data").stat().st_size
    return report(bytes=copied, seconds=seconds)


def build_seconds(recipe: str) -> dict[str, float]:
    """What each stage of a whole build takes, each pass proved on its own as it is by default."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "enginery", "build", recipe, "--precision", "fp32", "--output", folder]
        subprocess.run(command, check=False, capture_output=True)  # a refused build has timed its stages too
        seconds: Counter[str] = Counter()
        for result in Path(folder).glob(".store/results/*/result.json"):
            stage = json.loads(result.read_text())["stage"]
            seconds[stage] += json.loads(result.with_name("timing.json").read_text())["seconds"]
    return dict(seconds)


def write_large(path: Path, size: int) -> None:
    """Layers of MatMul and Add with square weights, written without holding them."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    width = 4096
    layers = size // (4 * width * width)
    rng = np.random.default_rng(0)
    initializers: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    with path.with_name("weights.data").open("wb") as stream:
        for layer in range(layers):
            weight = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
            weight.data_location = TensorProto.EXTERNAL
            offset = stream.tell()
            for _ in range(16):
                stream.write(rng.standard_normal((width // 16, width), dtype=np.float32).tobytes())
            for key, value in (("location", "weights.data"), ("offset", offset), ("length", stream.tell() - offset)):
                weight.external_data.add(key=key, value=str(value))
            initializers.append(weight)
            nodes.append(helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"m{layer}"], f"matmul{layer}"))
            nodes.append(helper.make_node("Add", [f"m{layer}", f"h{layer}"], [f"h{layer + 1}"], f"add{layer}"))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["N", width])],
        initializers,
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


if __name__ == "__main__":
    sys.exit(main())
