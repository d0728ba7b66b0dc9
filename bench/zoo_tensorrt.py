"""Does TensorRT-RTX build what we make, and what does ONNX Runtime's own quantizer make of it?

    python bench/zoo_tensorrt.py [--only NAME ...] [--minutes M] [--table] [--again] [--check] [--quick]

No GPU is needed. Each architecture of the zoo (random weights) runs in a process of its own with a time limit; results
are kept, and the next call goes on. A row says whether a plan was built of the float graph; of our int8 graph, and how
many of its heavy layers run in integers; of the file that `onnxruntime.quantization.quantize_static` writes with its
defaults, as it is; and of the same file after `enginery lint --fix`. `fix error` is how far the two are apart where the
data was calibrated, relative to the output's scale. `wall` is our build's time over that of the parser
and builder called by hand, interleaved.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from each import QUICK, Row, Study, command_line, first_line, names_of, parse, print_sources
from measure import Ask, conclude, print_machine, print_table
from zoo_exports import EXPORTS, RANGES

LIMIT: Final = 300
TARGET: Final = "tensorrt-rtx"
BUILT: Final = "built"
BROKEN: Final = "the given file does not run"
SHOWN: Final = 64
"""Characters of a reason in the table; the result files hold all of it."""
COLUMNS: Final = ("name", "fp32", "int8", "integer", "ort int8", "ort fixed", "fix error", "wall")


def main() -> int:
    walls = "time the builds of a few against parser and builder by hand, on an idle machine"
    given = parse(command_line("The zoo on TensorRT-RTX.", limit=LIMIT, walls=walls))
    from zoo_models import MODELS

    print_machine("tensorrt-rtx-cu13", "onnxruntime", "torch", "onnx")
    make = not given.walls
    exports = list(EXPORTS.rows(given, names_of(given, list(MODELS)), make=make))
    names = [row["name"] for row in exports if row["state"] == "exported"]
    times = {
        row["name"]: row for row in Study("walls", timed).rows(given, given.only or QUICK, make=given.walls, again=True)
    }
    rows = [times.get(row["name"], {}) | row for row in Study("tensorrt", examine).rows(given, names, make=make)]
    print_table(COLUMNS, [[shown(row, column) for column in COLUMNS] for row in rows])
    floats = [row for row in rows if row.get("fp32") == BUILT]
    quantized = [row for row in floats if not row.get("ort int8", "").startswith("not quantized")]
    broken = [row["name"] for row in quantized if row["fix error"] == BROKEN]
    quantized = [row for row in quantized if row["name"] not in broken]
    slowest = max((row["wall"] for row in times.values()), default=0.0)
    asks = [
        Ask("int8 plans of models whose float plan builds", built(floats, "int8"), len(floats), at_least=True),
        Ask("quantize_static's files after lint --fix", built(quantized, "ort fixed"), len(quantized), at_least=True),
        *([Ask("largest wall over parser and builder by hand", slowest, 1.1)] if times else []),
    ]
    print(f"\n{len(floats)} of {len(rows)} float plans; quantize_static's own files: {built(quantized, 'ort int8')}")
    if broken:
        print(f"quantize_static's files that do not run in ONNX Runtime either: {', '.join(broken)}")
    print_sources(rows)
    return conclude(asks, check=given.check)


def built(rows: Sequence[Row], column: str) -> int:
    return sum(row.get(column) == BUILT for row in rows)


def shown(row: Row, column: str) -> object:
    value = row.get(column, row.get("reason", "") if column == "fp32" else "")
    return value[:SHOWN].replace("|", "/").replace("\n", " ") if isinstance(value, str) else value


def examine(name: str, results: Path) -> Row:
    """One architecture, in this process."""
    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineryError
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes
    from enginery.pipeline.comparison.reference import ShapesReference

    logging.disable(logging.CRITICAL)
    source = results / "exports" / name
    reference = ShapesReference.open(source)
    feeds = [reference.inputs_of(case) for case in reference.cases]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        graph = folder / "graph.onnx"
        try:
            run_graph_passes(
                source / "model" / "model.onnx", graph, default_passes(TARGET), open_model=open_model, feeds=feeds,
                prove="end",
            )  # fmt: skip
        except EngineryError as error:
            return {"fp32": f"refused by the passes: {first_line(error)}"}
        state, _ = attempt(graph)
        if state != BUILT:
            return {"fp32": state}
        integers, share = ours(graph, folder, feeds)
        return {"fp32": state, "int8": integers, "integer": share, **theirs(graph, folder, feeds)}


def attempt(model: Path, *, lint: bool = True) -> tuple[str, dict[str, int]]:
    """Build a plan as the compile stage does, or without its lint; why not, and the heavy layers by kind."""
    from enginery.engines import get_engine
    from enginery.errors import EngineryError
    from enginery.pipeline.conformance import require_conformance

    with tempfile.TemporaryDirectory() as folder:
        try:
            spec = spec_of(model)
            if lint:
                require_conformance(model, TARGET, spec.dims)
            artifact = get_engine(TARGET).build(model, Path(folder), spec)
        except EngineryError as error:
            lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
            return f"refused: {lines[min(1, len(lines) - 1)]}", {}
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
    used = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    ranges = {dim: DimRange(*RANGES[dim]) for dim in sorted(used)}
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
        return f"not quantized: {first_line(error)}", ""
    state, heavy = attempt(output)
    return state, f"{heavy.get('integer', 0)} of {sum(heavy.values())}"


def theirs(graph: Path, folder: Path, feeds: list[dict[str, Any]]) -> Row:
    """The file of quantize_static's defaults: as it is, and after the fix; how far the two are apart."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from enginery.engines.onnxruntime import open_model
    from enginery.errors import EngineError
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
        return {"ort int8": f"not quantized: {type(error).__name__}: {first_line(error)}"}
    try:
        result = fix_model(given, fixed, TARGET, open_model=open_model, feeds=feeds[:1])
        apart: object = max(difference.relative for difference in result.differences)
    except EngineError:
        result = fix_model(given, fixed, TARGET)
        apart = BROKEN
    left = [str(finding) for finding in result.after if finding.severity == "error"]
    return {
        "ort int8": attempt(given, lint=False)[0],
        "ort fixed": attempt(fixed)[0] if not left else f"not fixed: {left[0]}",
        "fix error": apart,
    }


def timed(name: str, results: Path) -> Row:
    """The wall of our build over that of parser and builder by hand."""
    from measure import interleaved, ratio

    from enginery.engines import get_engine
    from enginery.engines.onnxruntime import open_model
    from enginery.passes.graph import default_passes
    from enginery.passes.sequence import run_graph_passes

    with tempfile.TemporaryDirectory() as text:
        graph = Path(text) / "graph.onnx"
        source = results / "exports" / name / "model" / "model.onnx"
        run_graph_passes(source, graph, default_passes(TARGET), open_model=open_model, prove="off")
        spec = spec_of(graph)

        def build() -> None:
            with tempfile.TemporaryDirectory() as folder:
                get_engine(TARGET).build(graph, Path(folder), spec)

        candidates: dict[str, Callable[[], object]] = {"ours": build, "hand": lambda: by_hand(graph, spec)}
        timings = interleaved(candidates, rounds=11, warmup=1)
        found = ratio(timings["ours"], timings["hand"])
        return {"wall": found.median, "wall low": found.low, "wall high": found.high}


def by_hand(model: Path, spec: Any) -> None:
    """What a script of ten lines does, in a process of its own as such a script is."""
    shapes = {
        tensor.name: [
            [dim if isinstance(dim, int) else getattr(spec.dims[dim], end) for dim in tensor.shape]
            for end in ("min", "opt", "max")
        ]
        for tensor in spec.inputs
        if any(isinstance(dim, str) for dim in tensor.shape)
    }
    with tempfile.TemporaryDirectory() as folder:
        code = f"""
import tensorrt_rtx as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, builder.logger)
assert parser.parse_from_file({str(model)!r})
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
for name, bounds in {shapes!r}.items():
    profile.set_shape(name, *bounds)
config.add_optimization_profile(profile)
open({folder!r} + "/plan", "wb").write(builder.build_serialized_network(network, config))
"""
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
