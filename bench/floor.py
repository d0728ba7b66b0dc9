"""The floor of this machine: how fast it multiplies matrices in float32, bfloat16 and int8, and how fast it reads.

A latency means more as a multiple of the time that its multiply-accumulates take at these peaks. The peaks are the best
that the installed runtimes reach (MLAS through ONNX Runtime, oneDNN through OpenVINO; of int8 the better one), not data
sheets.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
from onnx import TensorProto

from enginery.engines.onnxruntime import import_onnxruntime
from enginery.engines.openvino import OpenVinoOptions, import_openvino

SIZES = (512, 1024, 2048)
QUICK_SIZES = (512, 1024)
BYTES = 1 << 28


def peaks(*, quick: bool, threads: int) -> dict[str, float]:
    """Operations per second (a multiply-accumulate counts two) by data type, and `bandwidth` in bytes per second."""
    best: dict[str, float] = {}
    for size in QUICK_SIZES if quick else SIZES:
        candidates = _candidates(size, threads)
        timings = measure.interleaved(candidates, rounds=5 if quick else 15)
        for name, timing in timings.items():
            dtype = name.split()[0]
            best[dtype] = max(best.get(dtype, 0.0), 2 * size**3 / min(timing.seconds))
    best["bandwidth"] = _bandwidth(rounds=3 if quick else 9)
    return best


def _candidates(size: int, threads: int) -> dict[str, Callable[[], object]]:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((size, size), np.float32)
    integers = generator.integers(-127, 128, (size, size), np.int8)
    floats = {"a": generator.standard_normal((size, size), np.float32)}
    bytes_ = {"a": generator.integers(0, 255, (size, size), np.uint8)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = _save_product(folder / "float.onnx", "MatMul", TensorProto.FLOAT, TensorProto.FLOAT, weight)
        whole = _save_product(folder / "integer.onnx", "MatMulInteger", TensorProto.UINT8, TensorProto.INT32, integers)
        float_session, integer_session = _onnxruntime(real, threads), _onnxruntime(whole, threads)
        half = _openvino(real, threads).create_infer_request()
        pairs = _openvino(_save_quantized(folder / "pairs.onnx", weight), threads).create_infer_request()
    return {
        "float32 onnxruntime": lambda: float_session.run(None, floats),
        "bfloat16 openvino": lambda: half.infer(floats),
        "int8 onnxruntime": lambda: integer_session.run(None, bytes_),
        "int8 openvino": lambda: pairs.infer(floats),
    }


def _save_product(path: Path, op: str, given: int, result: int, weight: npt.NDArray[Any]) -> Path:
    size = len(weight)
    graph = oh.make_graph(
        [oh.make_node(op, ["a", "b"], ["c"])],
        "product",
        [oh.make_tensor_value_info("a", given, [size, size])],
        [oh.make_tensor_value_info("c", result, [size, size])],
        [onnx.numpy_helper.from_array(weight, "b")],
    )
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10), path)
    return path


def _save_quantized(path: Path, weight: npt.NDArray[Any]) -> Path:
    """A float product between Q/DQ pairs, which is how OpenVINO takes integers."""
    size = len(weight)
    scale = np.float32(4 / 127)
    constants = {"scale": scale, "b": np.rint(weight / scale).clip(-127, 127).astype(np.int8), "zero": np.uint8(128)}
    nodes = [
        oh.make_node("QuantizeLinear", ["a", "scale", "zero"], ["integers"]),
        oh.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["data"]),
        oh.make_node("DequantizeLinear", ["b", "scale"], ["weight"]),
        oh.make_node("MatMul", ["data", "weight"], ["c"]),
    ]
    ends = [oh.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("a", "c")]
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = oh.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10), path)
    return path


def _onnxruntime(path: Path, threads: int) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _openvino(path: Path, threads: int) -> Any:
    properties = OpenVinoOptions(threads, "bf16").properties()
    return import_openvino().Core().compile_model(str(path), "CPU", properties)


def _bandwidth(rounds: int) -> float:
    """Bytes per second that one thread sums from memory that no cache holds."""
    block = np.ones(BYTES // 8)
    timing = measure.interleaved({"read": block.sum}, rounds=rounds)["read"]
    return BYTES / min(timing.seconds)


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    measure.print_machine("openvino", "onnxruntime")
    found = peaks(quick=arguments.quick, threads=arguments.threads)
    rows = [[name, f"{value / 1e9:.0f} G{'B' if name == 'bandwidth' else 'op'}/s"] for name, value in found.items()]
    measure.print_table(["what", "peak"], rows)
    return measure.conclude([], check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
