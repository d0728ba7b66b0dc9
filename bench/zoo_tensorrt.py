"""Does TensorRT-RTX build what we make, and what does ONNX Runtime's own quantizer make of it?

    python bench/zoo_tensorrt.py [--only NAME ...] [--limit SECONDS] [--json FILE] [--check] [--quick]

No GPU is needed. Each architecture of the zoo (random weights) runs in a process of its own with a time limit. A row
says whether a plan was built of the float graph; of our int8 graph, and how many of its heavy layers run in integers;
of the file that `onnxruntime.quantization.quantize_static` writes with its defaults, as it is; and of the same file
after `enginery lint --fix`. `wall` is our build's time over that of the parser and builder called by hand,
interleaved.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import Ask, conclude, options, print_machine, print_table

LIMIT = 300
QUICK = ("bert", "llama", "resnet", "mobilenetv3")
SIZES = ({"batch": 2, "seq": 11}, {"batch": 3, "seq": 8})
RANGES = {"batch": (1, 2, 4), "seq": (1, 8, 32)}
TARGET = "tensorrt-rtx"
BUILT = "built"


def main() -> int:
    parser = options("The zoo on TensorRT-RTX.")
    parser.add_argument("--only", nargs="*", help="these architectures")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for each")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(examine(given.one)))
        return 0
    from zoo_models import MODELS

    print_machine("tensorrt-rtx-cu13", "onnxruntime", "torch", "onnx")
    rows = []
    for name in given.only or (QUICK if given.quick else list(MODELS)):
        rows.append(row := run(name, given.limit))
        print(f"{name}: {row}", file=sys.stderr)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")
    columns = ("name", "fp32", "int8", "integer", "ort int8", "ort fixed", "wall")
    print_table(columns, [[_short(row.get(column, "")) for column in columns] for row in rows])
    floats = [row for row in rows if row.get("fp32") == BUILT]
    walls = [row["wall"] for row in floats if "wall" in row]
    quantized = [row for row in floats if row.get("ort int8", "").startswith(("refused", BUILT))]
    asks = [
        Ask("int8 plans of models whose float plan builds", _built(floats, "int8"), len(floats), at_least=True),
        Ask("quantize_static's files after lint --fix", _built(quantized, "ort fixed"), len(quantized), at_least=True),
        Ask("median wall against parser and builder by hand", statistics.median(walls) if walls else 0.0, 1.1),
    ]
    print(f"\n{len(floats)} of {len(rows)} float plans; quantize_static's own files: {_built(quantized, 'ort int8')}")
    return conclude(asks, check=given.check)


def _built(rows: list[dict[str, Any]], column: str) -> int:
    return sum(row.get(column) == BUILT for row in rows)


def _short(value: object) -> object:
    return value[:60].replace("|", "/").replace("\n", " ") if isinstance(value, str) else value


def run(name: str, limit: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "fp32": f"not finished in {limit} s"}
    if done.returncode:
        return {"name": name, "fp32": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def examine(name: str) -> dict[str, Any]:
    """One architecture, in this process."""
    import torch
    from exports import export
    from zoo_models import MODELS

    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = MODELS[name]()
    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        try:
            export(example, folder / "plain.onnx")
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is a row of the table
            return row | {"fp32": f"not exported: {type(error).__name__}"}
        return row | judged(example, folder)


def judged(example: Any, folder: Path) -> dict[str, Any]:
    from exports import resized

    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes

    names = {name for axes in example.dims.values() for name in axes.values()}
    feeds = [
        {key: tensor.numpy() for key, tensor in resized(example, _of(sizes, names), seed).items()}
        for seed, sizes in enumerate(SIZES)
    ]
    graph = folder / "graph.onnx"
    try:
        run_graph_passes(
            folder / "plain.onnx", graph, default_passes(TARGET), open_model=open_model, feeds=feeds, prove="end"
        )
    except EngineryError as error:
        return {"fp32": f"refused before the build: {error}"}
    state, _ = attempt(graph)
    if state != BUILT:
        return {"fp32": state}
    integers, share = ours(graph, folder, feeds)
    given, fixed = theirs(graph, folder, feeds)
    return {
        "fp32": state, "int8": integers, "integer": share, "ort int8": given, "ort fixed": fixed, "wall": wall(graph)
    }  # fmt: skip


def _of(sizes: dict[str, int], names: set[str]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if name in names}


def attempt(model: Path) -> tuple[str, dict[str, int]]:
    """Build a plan; why not, and the heavy layers by kind."""
    from enginery.engines import get_engine
    from enginery.errors import EngineryError

    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = get_engine(TARGET).build(model, Path(folder), spec_of(model))
        except EngineryError as error:
            return f"refused: {str(error).splitlines()[-1].strip()}", {}
        return BUILT, artifact.facts["kernels"]["heavy"]


def spec_of(model: Path) -> Any:
    import onnx

    from enginery.engines import BuildSpec, DimRange, TensorSpec

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = tuple(spec(value) for value in graph.input if value.name not in constants)
    # Exports name some dimensions `s6`: the first axis of an input is the batch, the others are lengths.
    ranges = {
        dim: DimRange(*RANGES["batch" if axis == 0 else "seq"])
        for tensor in inputs
        for axis, dim in enumerate(tensor.shape)
        if isinstance(dim, str)
    }
    return BuildSpec(inputs, tuple(map(spec, graph.output)), ranges)


def ours(graph: Path, folder: Path, feeds: list[dict[str, Any]]) -> tuple[str, str]:
    """Our int8 graph, without remedies: they change numbers and not what builds."""
    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.passes.calibration import collect
    from enginery.passes.quantize import POLICIES, QuantizeOptions, quantize_model

    output = folder / "int8.onnx"
    try:
        seen = collect(graph, lambda: feeds, open_model=open_model)
        quantize_model(
            graph, output, seen, policy=POLICIES["tensorrt"], options=QuantizeOptions(passes=()),
            open_model=open_model, batches=lambda: feeds,
        )  # fmt: skip
    except EngineryError as error:
        return f"not quantized: {error}", ""
    state, heavy = attempt(output)
    return state, f"{heavy.get('integer', 0)} of {sum(heavy.values())}"


def theirs(graph: Path, folder: Path, feeds: list[dict[str, Any]]) -> tuple[str, str]:
    """The file of quantize_static's defaults: as it is, and after the fix."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from enginery.passes.graph.conformance import fix_model

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            # Its calibrator wants one shape for all batches.
            self.batches: Iterator[dict[str, Any]] = iter(feeds[:1] * 2)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    given, fixed = folder / "theirs.onnx", folder / "fixed.onnx"
    try:
        quantize_static(str(graph), str(given), Reader())
    except Exception as error:  # noqa: BLE001 - whatever it raises is a row of the table
        return f"not quantized: {type(error).__name__}", ""
    result = fix_model(given, fixed, TARGET)
    left = [str(finding) for finding in result.after if finding.severity == "error"]
    return attempt(given)[0], attempt(fixed)[0] if not left else f"not fixed: {left[0]}"


def wall(graph: Path) -> float:
    from measure import interleaved, ratio

    spec = spec_of(graph)
    candidates: dict[str, Callable[[], object]] = {"ours": lambda: attempt(graph), "hand": lambda: by_hand(graph, spec)}
    timings = interleaved(candidates, rounds=3, warmup=1)
    return ratio(timings["ours"], timings["hand"]).median


def by_hand(model: Path, spec: Any) -> bytes:
    """What a script of ten lines does, in a process of its own as such a script is."""
    shapes = {
        tensor.name: [
            [dim if isinstance(dim, int) else getattr(spec.dims[dim], end) for dim in tensor.shape]
            for end in ("min", "opt", "max")
        ]
        for tensor in spec.inputs
        if any(isinstance(dim, str) for dim in tensor.shape)
    }
    code = f"""
import sys, tensorrt_rtx as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, builder.logger)
assert parser.parse_from_file({str(model)!r})
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
for name, bounds in {shapes!r}.items():
    profile.set_shape(name, *bounds)
config.add_optimization_profile(profile)
sys.stdout.buffer.write(bytes(builder.build_serialized_network(network, config)))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
