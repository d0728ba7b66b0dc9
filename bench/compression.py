"""What module passes cost and save on real models: pruning, distillation, low rank, weight sharing, and all together.

    python bench/compression.py ../shared/data --work /path/to/keep/results [--seeds 0 1 2] [--only PART…] [--train]
        [--check] [--quick]

Trained cases are kept in `--work` and not trained again; `--train` stops after training, so that the timing can run on
a quiet machine. Accuracies are Fashion-MNIST's test-dev, in percent; epochs were chosen on other images. `--quick`
leaves the trained cases out. Baselines run in the same process.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import fashion
import measure
import numpy as np
import sentences
import squeezenet
import torch

from enginery.engines.onnxruntime import import_onnxruntime, open_model
from enginery.passes.graph.ir import load_graph, save_graph
from enginery.passes.graph.share.codebook import StoreCodebooks
from enginery.passes.module import run_module_passes
from enginery.passes.module.distil.distil import Distil
from enginery.passes.module.low_rank.factorize import Factorize
from enginery.passes.module.prune.weights import PruneWeights
from enginery.passes.module.recover import Recover
from enginery.passes.module.share.codebooks import ShareWeights

SAMPLES = 12_000
ORIGINAL_EPOCHS = 10
TEACHER_EPOCHS = 8
STUDENT_SAMPLES = 4_000
STUDENT_EPOCHS = 60
RECOVERY_EPOCHS = 5
FROM_SCRATCH: dict[str, Any] = {"lr": 3e-3, "warmup": 0.1, "keep": "last", **fashion.TRAINING}
FINE_TUNING: dict[str, Any] = {"lr": 1e-3, **fashion.TRAINING}
TAUGHT: dict[str, Any] = {"alpha": 0.7, "temperature": 1.0}
RECOVERY_SECONDS = 300
FEED_FORWARD = r"encoder\.layer\.\d\.(intermediate|output)\.dense"
LATENCY_BATCH = 32
PARTS = ("trained", "shared", "low-rank")
CASES = ("original", "pruned", "peer", "sparse", "alone", "distilled", "original int8", "pruned int8")


def train(folder: Path, data: fashion.Fashion, seed: int, work: Path, only: Sequence[str] | None = None) -> None:
    """Make every Fashion-MNIST case of a seed, or `only` some."""
    context = data.context(seed, work)
    original = fashion.trained(data, seed, ORIGINAL_EPOCHS, work)
    teaching = data.context(seed, work, original=lambda: copy.deepcopy(original))

    def pruned() -> torch.nn.Module:
        """Prune, then let the original teach what is left."""
        module = fashion.pruned(original, context, 0.5)
        return Distil(epochs=RECOVERY_EPOCHS, **TAUGHT, **FINE_TUNING).apply(module, teaching)[0]

    def peer() -> torch.nn.Module:
        module = fashion.peers_pruned(original, torch.from_numpy(data.images[:2]), 0.5)
        return Recover(epochs=RECOVERY_EPOCHS, **FINE_TUNING).apply(module, context)[0]

    def sparse() -> torch.nn.Module:
        """Prune while training, taught by the original."""
        one = PruneWeights(ratio=0.9, prune="cubic", steps=40, epochs=16, lr=2e-3, **TAUGHT, **fashion.TRAINING)
        return run_module_passes(copy.deepcopy(original), [one], teaching)[0]

    few = fashion.Fashion(folder, STUDENT_SAMPLES)

    def alone() -> torch.nn.Module:
        torch.manual_seed(seed)
        return Recover(epochs=STUDENT_EPOCHS, **FROM_SCRATCH).apply(fashion.student(), few.context(seed, work))[0]

    def distilled() -> torch.nn.Module:
        """The student sees the images that the one alone sees, and no labels; the teacher has learned from 55,000."""
        teacher = fashion.trained(fashion.Fashion(folder), 0, TEACHER_EPOCHS, work)
        one = Distil(student="s", epochs=STUDENT_EPOCHS, alpha=1.0, temperature=2.0, **FROM_SCRATCH)
        return one.apply(teacher, few.context(seed, work, resolve=lambda _: fashion.student))[0]

    made = {"original": lambda: original, "pruned": pruned, "peer": peer, "sparse": sparse,
            "alone": alone, "distilled": distilled}  # fmt: skip
    for name, make in made.items():
        if only is None or name in only:
            path = fashion.built(name, data, seed, work, make)
            print(f"seed {seed}: {name} {json.loads(path.with_suffix('.json').read_text())}", flush=True)


def onnx_accuracy(path: Path, data: fashion.Fashion) -> float:
    images, labels = data.test
    run = open_model(path, optimize=True)
    parts = [run({"x": images[i : i + 500]})["logits"].argmax(1) for i in range(0, len(images), 500)]
    return 100 * float((np.concatenate(parts) == labels).mean())


def quantized(path: Path, data: fashion.Fashion) -> Path:
    """The int8 form for ONNX Runtime's CPU kernels, by the same functions as `enginery build`."""
    from enginery.passes.calibration import collect
    from enginery.passes.graph import default_passes
    from enginery.passes.quantize import QuantizeOptions, get_policy, quantize_model
    from enginery.passes.sequence import run_graph_passes

    target = path.with_suffix(".int8.onnx")
    if not target.exists():
        feeds = [{"x": data.images[i : i + 50]} for i in range(0, 500, 50)]
        optimized = path.with_suffix(".optimized.onnx")
        run_graph_passes(
            path, optimized, default_passes("onnxruntime-cpu"), open_model=open_model, feeds=feeds[:1], prove="end"
        )
        seen = collect(optimized, lambda: iter(feeds), open_model=open_model)
        quantize_model(
            optimized, target, seen, policy=get_policy("onnxruntime-cpu"), options=QuantizeOptions(),
            open_model=open_model, batches=lambda: iter(feeds),
        )  # fmt: skip
    return target


def zipped(path: Path) -> int:
    """Bytes of the file in a zip archive."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            file.write(path, "model.onnx")
        return archive.stat().st_size


def latencies(paths: dict[str, Path], rounds: int) -> dict[str, measure.Timing]:
    """One thread, batch 32, every model in turn."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    feeds = {"x": np.random.default_rng(0).standard_normal((LATENCY_BATCH, 1, 28, 28)).astype(np.float32)}
    sessions = {
        n: runtime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for n, p in paths.items()
    }
    calls = {name: (lambda session=session: session.run(None, feeds)) for name, session in sessions.items()}
    return measure.interleaved(calls, rounds=rounds)


def fast(timing: measure.Timing) -> float:
    """The 10th percentile: what else the machine does only ever adds time."""
    return float(np.quantile(timing.seconds, 0.1))


def spread(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{statistics.fmean(values):.2f} [{low:.2f}, {high:.2f}]"


def trained_cases(data: fashion.Fashion, seeds: list[int], work: Path) -> list[measure.Ask]:
    """The table of the trained cases, and what was asked of them."""
    scores: dict[str, list[float]] = {name: [] for name in CASES}
    ratios: dict[str, list[float]] = {name: [] for name in CASES}
    sizes: dict[str, list[float]] = {name: [] for name in CASES}
    records: dict[str, Any] = {}
    recovery: list[float] = []
    for seed in seeds:
        paths = {name: work / f"{name}-{seed}.onnx" for name in CASES if "int8" not in name}
        for name in ("original", "pruned"):
            paths[f"{name} int8"] = quantized(paths[name], data)
        times = latencies(paths, rounds=60)
        for name, path in paths.items():
            scores[name].append(onnx_accuracy(path, data))
            ratios[name].append(fast(times[name]) / fast(times["original"]))
            sizes[name].append(zipped(path) / zipped(paths["original"]))
            if "int8" not in name:
                records[name] = json.loads((work / f"{name}-{seed}.json").read_text())
        recovery.append(records["pruned"]["seconds"])
    lost = {name: spread([a - b for a, b in zip(scores["original"], scores[name], strict=True)]) for name in CASES}
    rows = [
        (
            name,
            spread(scores[name]),
            lost[name],
            records[name]["nonzero"] if name in records else "",
            records[name]["macs"] if name in records else "",
            f"{statistics.fmean(sizes[name]):.3f}",
            spread(ratios[name]),
        )
        for name in CASES
    ]
    headers = ("case", "accuracy %, mean [least, most]", "lost", "parameters", "MACs", "zipped", "latency")
    measure.print_table(headers, rows)
    print(
        f"\n{len(seeds)} seeds, {len(data.images):,} training images; sizes and latencies relative to the original "
        f"(ONNX Runtime CPU, one thread, batch {LATENCY_BATCH})\n"
    )
    return [
        *asks_of_trained(scores, ratios, sizes),
        measure.Ask("processor seconds of structured pruning with its recovery", max(recovery), RECOVERY_SECONDS),
    ]


def asks_of_trained(
    scores: dict[str, list[float]], ratios: dict[str, list[float]], sizes: dict[str, list[float]]
) -> list[measure.Ask]:
    mean, latency, size = (
        {name: statistics.fmean(values) for name, values in one.items()} for one in (scores, ratios, sizes)
    )
    parts = ("pruned", "original int8")
    return [
        measure.Ask("points lost by structured pruning to half the MACs", mean["original"] - mean["pruned"], 0.3),
        measure.Ask("its latency over the original's", latency["pruned"], 0.65),
        measure.Ask("its points over torch-pruning's own recipe", mean["pruned"] - mean["peer"], 0.0, at_least=True),
        measure.Ask("points lost by 90 % unstructured pruning", mean["original"] - mean["sparse"], 0.5),
        measure.Ask("its zipped model over the original's", size["sparse"], 0.25),
        measure.Ask("points won by distillation", mean["distilled"] - mean["alone"], 0.5, at_least=True),
        measure.Ask(
            "its worst seed over the best seed of the student alone, points",
            min(scores["distilled"]) - max(scores["alone"]),
            0.0,
            at_least=True,
        ),
        measure.Ask("points lost by prune, distil, int8", mean["original"] - mean["pruned int8"], 1.0),
        measure.Ask(
            "its latency over the faster of its parts", latency["pruned int8"] / min(latency[p] for p in parts), 1.0
        ),
        measure.Ask("its size over the smaller of its parts", size["pruned int8"] / min(size[p] for p in parts), 1.0),
    ]


def low_rank(folder: Path, *, quick: bool) -> list[measure.Ask]:
    """MiniLM's feed-forward layers at several sizes: 1 - mean cosine to the original's embeddings, and Spearman."""
    original = sentences.load()
    test = sentences.batches(sentences.sentences(folder, "dev", 64 if quick else 400))
    wanted = sentences.embeddings(original, test)
    asks: list[measure.Ask] = []
    rows: list[tuple[object, ...]] = [("original", 1.0, 0.0, "" if quick else sentences.spearman(original, folder))]
    for share in (0.5,) if quick else (0.3, 0.5, 0.7, 0.9):
        lost: dict[bool, float] = {}
        for aware in (False, True):
            context = sentences.context(folder, 64 if quick else 512, seed=0)
            module, _ = Factorize(share=share, aware=aware, layers=FEED_FORWARD).apply(copy.deepcopy(original), context)
            lost[aware] = float((1 - (sentences.embeddings(module, test) * wanted).sum(1)).mean())
            figure = "" if quick else sentences.spearman(module, folder)
            rows.append(("activation-aware" if aware else "plain", share, lost[aware], figure))
            print(".", end="", file=sys.stderr, flush=True)
        if share == 0.5 and not quick:
            one = Factorize(budget=share, by="sensitivity", probe=2, layers=FEED_FORWARD)
            module, _ = one.apply(copy.deepcopy(original), sentences.context(folder, 512, seed=0))
            figure = float((1 - (sentences.embeddings(module, test) * wanted).sum(1)).mean())
            rows.append(("activation-aware, by sensitivity", share, figure, sentences.spearman(module, folder)))
        asks.append(
            measure.Ask(f"cosine lost, aware over plain, at {share:.0%} of the size", lost[True] / lost[False], 0.5)
        )
    print(file=sys.stderr)
    measure.print_table(("SVD of MiniLM's feed-forward", "share of weights", "1 - cosine", "Spearman (0.8672)"), rows)
    return asks


def shared(folder: Path, *, quick: bool) -> list[measure.Ask]:
    """SqueezeNet: its codebooks recognized, and stored as such."""
    module = squeezenet.load(folder)
    photos, labels = squeezenet.photos(folder, 8 if quick else 100)
    context = fashion.ModuleContext(example={"x": photos[:1]})
    found, records = run_module_passes(module, [ShareWeights(codes=256)], context)
    recognized = records[0].result.details["recognized"]
    with tempfile.TemporaryDirectory() as scratch:
        dense, small = Path(scratch) / "dense.onnx", Path(scratch) / "small.onnx"
        squeezenet.export(found, photos[:1], dense)
        graph = load_graph(dense)
        StoreCodebooks().apply(graph)
        save_graph(graph, small)
        answers = {path: open_model(path, optimize=True)({"x": photos})["y"] for path in (dense, small)}
        opened = measure.interleaved(
            {path.stem: (lambda path=path: open_model(path, optimize=True)) for path in (dense, small)}, rounds=5
        )
        runs = {path.stem: open_model(path, optimize=True) for path in (dense, small)}
        times = measure.interleaved(
            {name: (lambda run=run: run({"x": photos[:1]})) for name, run in runs.items()}, rounds=5 if quick else 30
        )
        rows = [
            (p.stem, p.stat().st_size, zipped(p), 100 * float((answers[p].argmax(1) == labels).mean())) for p in answers
        ]
        size = small.stat().st_size
    measure.print_table(("SqueezeNet", "bytes", "zipped", f"top-1 of {len(labels)}"), rows)
    print(
        f"\ncodebooks recognized in {len(recognized)} of 26 layers, {min(recognized.values())} to "
        f"{max(recognized.values())} values; opening takes {measure.ratio(opened['small'], opened['dense'])} of the "
        f"dense file's time, a run {measure.ratio(times['small'], times['dense'])}\n"
    )
    worst = float(np.abs(answers[small] - answers[dense]).max() / np.abs(answers[dense]).max())
    return [
        measure.Ask("layers whose codebook is recognized", len(recognized), 26, at_least=True),
        measure.Ask("the model's bytes over the authors' file", size / squeezenet.PUBLISHED_BYTES, 1.3),
        measure.Ask("largest difference of the answers, relative", worst, 1e-5),
    ]


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("data", type=Path, help="the folder of development data")
    parser.add_argument("--work", type=Path, required=True, help="keeps trained cases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", help="train these cases alone")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--train", action="store_true", help="train, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    asks: list[measure.Ask] = []
    if not options.quick and "trained" in options.only:
        data = fashion.Fashion(options.data, SAMPLES)
        for seed in options.seeds:
            train(options.data, data, seed, options.work, options.cases)
        if options.train:
            return 0
        measure.print_machine("torch", "torch-pruning", "onnxruntime")
        asks += trained_cases(data, options.seeds, options.work)
    if "shared" in options.only:
        asks += shared(options.data, quick=options.quick)
    if "low-rank" in options.only:
        asks += low_rank(options.data, quick=options.quick)
    return measure.conclude(asks, check=options.check)


if __name__ == "__main__":
    raise SystemExit(main())
