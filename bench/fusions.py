"""What each fusion and lowering is worth on a target, against ONNX Runtime's default session on the plain export.

    python bench/fusions.py [--cpu] [--check] [--quick]

The defaults in `passes/graph/__init__.py` are chosen from these tables: a fusion whose gain is within the noise of its
target is not applied there. `--variants` always measures the defaults too. Sessions run in turn in one process;
figures are ratios of times, so less is better.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exports import Example, export, gpt2, llama, minilm, residual_blocks, resized, vit_small
from measure import Ask, conclude, interleaved, options, print_machine, print_table, ratio

from enginery.engines.onnxruntime import open_model
from enginery.passes.graph import default_passes, graph_passes
from enginery.passes.sequence import run_graph_passes
from enginery.passes.spec import parse_pass

if TYPE_CHECKING:
    import numpy as np

SLOW = ["SkipLayerNormFusion"]
TARGET = "onnxruntime-cpu"

VARIANTS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "defaults": lambda passes: passes,
    "no attention": lambda passes: without(passes, "fuse-attention"),
    "no rms norm": lambda passes: without(passes, "fuse-rms-norm"),
    "no rotary": lambda passes: without(passes, "fuse-rotary"),
    "no grouped queries": lambda passes: without(passes, "fuse-grouped-queries"),
    "none of the three": lambda passes: without(passes, "fuse-rms-norm", "fuse-rotary", "fuse-grouped-queries"),
    "rotary not packed": lambda passes: without(passes, "pack-rotary"),
    "no early selection": lambda passes: without(passes, "select-early"),
    "no split projections": lambda passes: without(passes, "split-projections"),
    "with group norm": lambda passes: before_attention(passes, "fuse-group-norm"),
    "no silu": lambda passes: without(passes, "fuse-silu"),
    "with matmul-add": lambda passes: before_attention(passes, "fuse-matmul-add"),
    "with residual norms": lambda passes: written(passes, "lower-to-residual-norm"),
    "with embedding norms": lambda passes: written(passes, "lower-to-embedding-norm"),
    "not packed": lambda passes: without(passes, "pack-attention"),
    "multi-head attention": lambda passes: swapped(passes, "pack-attention", "lower-to-multi-head-attention"),
}
RECOGNITION = {
    "minilm": {"Attention": 6, "LayerNormalization": 13},
    "vit_small": {"Attention": 12, "LayerNormalization": 25},
    "llama": {"Attention": 6, "RMSNormalization": 13, "RotaryEmbedding": 12},
    "gpt2": {"Attention": 6, "LayerNormalization": 13},
    "residual_blocks": {"GroupNormalization": 8},
}
IMAGES = ("vit_small", "residual_blocks")
RECOGNIZERS = ("fuse-group-norm", "fuse-rms-norm", "fuse-rotary", "fuse-layer-norm", "fuse-gelu", "fuse-attention")


def main() -> int:
    parser = options("What each fusion is worth on ONNX Runtime's CPU, against its default session.")
    parser.add_argument("--models", nargs="*", default=["minilm", "vit_small", "llama", "gpt2", "residual_blocks"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="measure these instead of all")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cpu", action="store_true", help="CPU time of one thread: other work hardly moves it")
    given = parser.parse_args()
    print_machine("onnxruntime", "torch", "onnx")
    asks: list[Ask] = []
    rows: list[list[object]] = []
    models = {
        "minilm": minilm, "vit_small": vit_small, "llama": llama, "gpt2": gpt2, "residual_blocks": residual_blocks
    }  # fmt: skip
    for name in ["minilm"] if given.quick else given.models:
        with tempfile.TemporaryDirectory() as folder:
            example = models[name]()
            asks += recognized(name, example, Path(folder))
            shapes = [{"batch": 1, "seq": 128}, {"batch": 8, "seq": 128}][: 1 if name in IMAGES else 2]
            for sizes in shapes:
                found = measured(
                    example,
                    Path(folder),
                    sizes,
                    list(dict.fromkeys(["defaults", *given.variants])),
                    # A short run takes more rounds to tell a gain from noise.
                    rounds=8 if given.quick else given.rounds * (1 if sizes["batch"] > 1 else 3),
                    cpu=given.cpu,
                )
                where = f"{name} batch {sizes['batch']}" + ("" if name in IMAGES else f" seq {sizes['seq']}")
                rows += [[where, variant, *map(str, values)] for variant, values in found.items()]
                bound = {("minilm", 1): 0.82, ("minilm", 8): 0.77, ("vit_small", 1): 0.92}.get((name, sizes["batch"]))
                asks.append(Ask(f"{where}: defaults over ONNX Runtime's", found["defaults"][0].median, bound or 1.02))
    print_table(["model", "passes", "time over ONNX Runtime's default [quartiles]", "over our defaults"], rows)
    return conclude(asks, check=given.check)


def without(passes: list[Any], *names: str) -> list[Any]:
    return [each for each in passes if each.name not in names]


def before_attention(passes: list[Any], *names: str) -> list[Any]:
    where = [each.name for each in passes].index("fuse-attention")
    return [*passes[:where], *(parse_pass(name, graph_passes()) for name in names), *passes[where:]]


def written(passes: list[Any], name: str) -> list[Any]:
    """The passes with one that only names what it could write told to write it."""
    return [parse_pass(name, graph_passes()) if each.name == name else each for each in passes]


def swapped(passes: list[Any], old: str, new: str) -> list[Any]:
    return [parse_pass(new, graph_passes()) if each.name == old else each for each in passes]


def recognized(name: str, example: Example, folder: Path) -> list[Ask]:
    """Apply every recognizer and count the canonical ops; the proof runs at batch 1, 2 and 7."""
    import onnx

    source = folder / "plain.onnx"
    export(example, source)
    passes = [each for each in default_passes("portable") if not each.name.startswith("lower-")]
    names = [each.name for each in passes]
    missing = [parse_pass(each, graph_passes()) for each in RECOGNIZERS if each not in names]
    where = names.index("fuse-attention")
    feeds = [arrays(resized(example, {"batch": batch, "seq": seq})) for batch, seq in ((1, 5), (2, 8), (7, 3))]
    output = folder / "canonical.onnx"
    run_graph_passes(source, output, [*passes[:where], *missing, *passes[where:]], open_model=open_model, feeds=feeds)
    found = Counter(node.op_type for node in onnx.load(output, load_external_data=False).graph.node)
    return [
        Ask(f"{name}: {op} recognized", found[op], wanted, at_least=True) for op, wanted in RECOGNITION[name].items()
    ]


def measured(
    example: Example, folder: Path, sizes: dict[str, int], variants: list[str], *, rounds: int, cpu: bool
) -> dict[str, tuple[Any, Any]]:
    """Every variant that differs from the defaults, over ONNX Runtime's default session and over our defaults.

    Two sessions of the same graph, "noise" and "defaults again", differ by what is no gain.
    """
    source = folder / "plain.onnx"
    feeds = arrays(resized(example, sizes))
    proof = [arrays(resized(example, {"batch": 2, "seq": 5}))]
    threads = 1 if cpu else 0
    sessions: dict[str, Any] = {"plain": session(source, [], threads), "noise": session(source, [], threads)}
    sessions["plain, no SkipLayerNorm"] = session(source, SLOW, threads)
    seen: set[bytes] = set()
    for variant, change in ((name, VARIANTS[name]) for name in variants):
        output = folder / variant / "model.onnx"
        output.parent.mkdir(exist_ok=True)
        passes = change(list(default_passes(TARGET)))
        run_graph_passes(source, output, passes, open_model=open_model, feeds=proof, prove="end")
        if (content := output.read_bytes()) not in seen:  # a variant that changes nothing here is the one before
            seen.add(content)
            sessions[variant] = session(output, SLOW, threads)
        if variant == "defaults":
            sessions["defaults again"] = session(output, SLOW, threads)
    calls = {name: (lambda run=run: run(feeds)) for name, run in sessions.items()}
    timings = interleaved(calls, rounds=rounds, clock=time.process_time if cpu else time.perf_counter)
    return {
        name: (ratio(timing, timings["plain"]), ratio(timing, timings["defaults"]))
        for name, timing in timings.items()
        if name != "plain"
    }


def session(path: Path, disabled: list[str], threads: int = 0) -> Callable[[dict[str, np.ndarray]], Any]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    extra = {"disabled_optimizers": disabled} if disabled else {}
    opened = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"], **extra)
    return lambda feeds: opened.run(None, feeds)


def arrays(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


if __name__ == "__main__":
    sys.exit(main())
