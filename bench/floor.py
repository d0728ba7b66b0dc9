"""The floor of this machine: how fast it multiplies matrices in float32, bfloat16 and int8, and how fast it reads.

A latency means more as a multiple of the time that its multiply-accumulates take at these peaks. The peaks are the best
that the installed libraries reach (oneDNN through PyTorch and OpenVINO, MLAS through ONNX Runtime), not data sheets.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import onnx
import onnx.helper as oh
import torch

from enginery.engines.onnxruntime import import_onnxruntime

SIZES = (512, 1024, 2048)
QUICK_SIZES = (512, 1024)
BYTES = 1 << 28


def peaks(*, quick: bool, threads: int) -> dict[str, float]:
    """Operations per second (a multiply-accumulate counts two) by data type, and `bandwidth` in bytes per second."""
    torch.set_num_threads(threads)
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
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    left16, right16 = left.bfloat16(), right.bfloat16()
    integer = _integer_session(size, threads)
    feeds = {"a": np.random.default_rng(0).integers(0, 255, (size, size), np.uint8)}
    return {
        "float32 torch": lambda: torch.mm(left, right),
        "bfloat16 torch": lambda: torch.mm(left16, right16),
        "int8 onnxruntime": lambda: integer.run(None, feeds),
    }


def _integer_session(size: int, threads: int) -> Any:
    weight = np.random.default_rng(1).integers(-127, 128, (size, size), np.int8)
    graph = oh.make_graph(
        [oh.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "integer",
        [oh.make_tensor_value_info("a", onnx.TensorProto.UINT8, [size, size])],
        [oh.make_tensor_value_info("c", onnx.TensorProto.INT32, [size, size])],
        [onnx.numpy_helper.from_array(weight, "b")],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integer.onnx"
        onnx.save(model, path)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _bandwidth(rounds: int) -> float:
    """Bytes per second of a sum over memory that no cache holds."""
    block = torch.ones(BYTES // 4)
    timing = measure.interleaved({"read": block.sum}, rounds=rounds)["read"]
    return BYTES / min(timing.seconds)


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    measure.print_machine("torch", "onnxruntime")
    found = peaks(quick=arguments.quick, threads=arguments.threads)
    rows = [[name, f"{value / 1e9:.0f} G{'B' if name == 'bandwidth' else 'op'}/s"] for name, value in found.items()]
    measure.print_table(["what", "peak"], rows)
    return measure.conclude([], check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
