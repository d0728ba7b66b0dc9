"""Builds one candidate in a process of its own and prints its wall time and peak memory as JSON.

    python worker.py WHAT MODEL OUTPUT CALIBRATION

It runs in the peer's own environment too, so it imports nothing of Enginery's. The wall time leaves imports out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from own_memory import peak_mib

from contest.cases import load_feeds


def ort_optimizer(model: Path, output: Path, _: Path) -> Callable[[], None]:
    from onnxruntime.transformers import optimizer

    return lambda: optimizer.optimize_model(str(model), "bert", opt_level=0).save_model_to_file(str(output))


def ort_dynamic(model: Path, output: Path, _: Path) -> Callable[[], None]:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def run() -> None:
        prepared = output.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(output))

    return run


def ort_static(method: str) -> Callable[[Path, Path, Path], Callable[[], None]]:
    def prepare(model: Path, output: Path, calibration: Path) -> Callable[[], None]:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = iter(load_feeds(calibration))

            def get_next(self) -> Any:
                return next(self.batches, None)

        def run() -> None:
            prepared = output.with_suffix(".prepared.onnx")
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            kind = getattr(CalibrationMethod, method)
            quantize_static(str(prepared), str(output), Reader(), per_channel=True, calibrate_method=kind)

        return run

    return prepare


def onnxslim(model: Path, output: Path, _: Path) -> Callable[[], None]:
    import onnxslim as peer

    return lambda: peer.slim(str(model), str(output))


def nncf(model: Path, output: Path, calibration: Path) -> Callable[[], None]:
    import nncf as peer
    import openvino

    def run() -> None:
        batches = load_feeds(calibration)
        network = openvino.Core().read_model(str(model))
        attends = any(each.get_type_name() == "Softmax" for each in network.get_ordered_ops())
        kind = peer.ModelType.TRANSFORMER if attends else None
        quantized = peer.quantize(network, peer.Dataset(batches), model_type=kind, subset_size=len(batches))
        openvino.save_model(quantized, str(output), compress_to_fp16=False)

    return run


def modelopt(model: Path, output: Path, calibration: Path) -> Callable[[], None]:
    from modelopt.onnx.quantization import quantize

    first = load_feeds(calibration)[0]
    return lambda: quantize(
        str(model), calibration_data=first, output_path=str(output), calibration_eps=["cpu"], quantize_mode="int8"
    )


BUILDERS: dict[str, Callable[[Path, Path, Path], Callable[[], None]]] = {
    "ort-optimizer": ort_optimizer,
    "ort-dynamic": ort_dynamic,
    "ort-static-minmax": ort_static("MinMax"),
    "ort-static-entropy": ort_static("Entropy"),
    "ort-static-percentile": ort_static("Percentile"),
    "onnxslim": onnxslim,
    "nncf": nncf,
    "modelopt": modelopt,
}


def main(what: str, model: str, output: str, calibration: str) -> None:
    run = BUILDERS[what](Path(model), Path(output), Path(calibration))
    begin = time.perf_counter()
    run()
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
