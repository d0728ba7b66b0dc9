"""Weight-only int4 of a large model: peak memory against the size of its float weights.

    python bench/weight_only.py [--gigabytes 1.0] [--check] [--quick]

The model is Llama-like: projections of attention and of a gated feed-forward block over random weights in external
data, with a norm between; it is written directly, since exporting it would take the memory that is to be measured. The
quantization runs in a process of its own, through the same function as `enginery quantize --precision int4-weight`, and
its peak is counted from a process that has only imported it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import onnx
import own_memory
from onnx import TensorProto, helper

PEAK = 1.5
WIDTH, HIDDEN, VOCABULARY = 2048, 5632, 32000
PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (WIDTH, WIDTH)),
    **dict.fromkeys(("gate_proj", "up_proj"), (WIDTH, HIDDEN)),
    "down_proj": (HIDDEN, WIDTH),
}
MODES = ("int8-weight", "int4-weight")


class Writer:
    """Writes weights into one data file as they are made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.onnx"
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.bytes = 0
        self._data = (folder / "model.data").open("wb")
        self._generator = np.random.default_rng(0)

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        values = self._generator.standard_normal(shape, dtype=np.float32) * np.float32(shape[0] ** -0.5)
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": "model.data", "offset": self._data.tell(), "length": values.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(values.tobytes())
        self.tensors.append(tensor)
        self.bytes += values.nbytes
        return name

    def op(self, op: str, inputs: list[str], output: str) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}"))
        return output

    def linear(self, x: str, name: str, shape: tuple[int, int]) -> str:
        return self.op("MatMul", [x, self.weight(f"{name}.weight", shape)], name)

    def save(self, output: str) -> None:
        self._data.close()
        dims = ["batch", "seq", VOCABULARY]
        graph = helper.make_graph(
            self.nodes,
            "llama",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, dims[:2])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)],
            self.tensors,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), self.path)


def llama_like(folder: Path, gigabytes: float) -> int:
    """Write `folder/model.onnx` with about that many bytes of float weights; how many there are."""
    out = Writer(folder)
    x = out.op("Gather", [out.weight("embed_tokens.weight", (VOCABULARY, WIDTH)), "input_ids"], "embedded")
    layer = 0
    while out.bytes + VOCABULARY * WIDTH * 4 < gigabytes * 1e9:
        name = f"layers.{layer}"
        query, key, value = (
            out.linear(x, f"{name}.{part}", PROJECTIONS[part]) for part in ("q_proj", "k_proj", "v_proj")
        )
        mixed = out.op("Mul", [out.op("Add", [query, key], f"{name}.added"), value], f"{name}.mixed")
        x = out.op("Add", [x, out.linear(mixed, f"{name}.o_proj", PROJECTIONS["o_proj"])], f"{name}.attended")
        gate, up = (out.linear(x, f"{name}.{part}", PROJECTIONS[part]) for part in ("gate_proj", "up_proj"))
        gated = out.op("Mul", [out.op("Sigmoid", [gate], f"{name}.sigmoid"), up], f"{name}.gated")
        x = out.op("Add", [x, out.linear(gated, f"{name}.down_proj", PROJECTIONS["down_proj"])], f"{name}.out")
        layer += 1
    out.save(out.linear(x, "logits", (WIDTH, VOCABULARY)))
    return out.bytes


def worker(model: str, output: str, mode: str, policy: str) -> int:
    from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
    from enginery.pipeline.recipe import Mode

    def never(*_: object, **__: object) -> object:
        raise AssertionError("weight-only modes run no model")

    before = own_memory.peak_mib()
    begin = time.perf_counter()
    if mode != "nothing":
        quantize_model(
            Path(model), Path(output), None, policy=get_policy(policy),
            options=QuantizeOptions(mode=Mode(mode).value), open_model=never, batches=None,
        )  # fmt: skip
    seconds, peak = time.perf_counter() - begin, own_memory.peak_mib()
    print(json.dumps({"seconds": seconds, "peak": peak * (1 << 20), "before": before * (1 << 20)}))
    return 0


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of float weights")
    arguments = parser.parse_args()
    measure.print_machine("onnx", "onnx-graphsurgeon", "numpy")
    rows: list[list[object]] = []
    asks: list[measure.Ask] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = llama_like(folder, 0.6 if arguments.quick else arguments.gigabytes)
        for policy in ("onnxruntime-cpu", "tensorrt"):
            for mode in MODES:
                (output := folder / policy / mode).mkdir(parents=True)
                command = [sys.executable, __file__, "--worker", str(folder / "model.onnx")]
                command += [str(output / "model.onnx"), mode, policy]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found = json.loads(text.splitlines()[-1])
                written = sum(path.stat().st_size for path in output.iterdir())
                rows.append([policy, mode, size / 1e9, written / size, found["peak"] / size, found["seconds"]])
                asks.append(measure.Ask(f"{policy}, {mode}: peak memory of the weights", found["peak"] / size, PEAK))
                for path in output.iterdir():
                    path.unlink()
    measure.print_table(["policy", "mode", "weights GB", "size / float", "peak / weights", "seconds"], rows)
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(worker(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main())
