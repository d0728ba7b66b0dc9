from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from enginery.pipeline.cli.options import (
    Folder,
    bundle_argument,
    echo_json,
    engine_option,
    json_option,
    threads_option,
    verbosity_options,
)
from enginery.pipeline.cli.terminal import Terminal


@click.command("bench")
@bundle_argument
@click.option("--against", type=Folder(), help="A second bundle of the same model, timed in turns with the first.")
@click.option("--case", "cases", multiple=True, metavar="NAME", help="A golden case, such as opt; repeat for several.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Time for each case.")
@threads_option
@engine_option
@json_option
@verbosity_options
def command(
    bundle: Path,
    against: Path | None,
    cases: tuple[str, ...],
    seconds: float,
    threads: int | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Time a bundle on its golden inputs, alone or against another.

    Two bundles run in turns in one process; the result is the median of the paired ratios with its 95 % interval.
    """
    from enginery.pipeline.bundle_benchmark import benchmark_bundles
    from enginery.pipeline.events import StageName

    stage = StageName("bench", str(bundle))
    with Terminal.from_context() as terminal:
        terminal.started(stage, "")
        times = benchmark_bundles(
            bundle,
            against,
            cases=cases,
            seconds=seconds,
            threads=threads,
            options=options,
            progress=lambda case, pairs: terminal.progress(stage, pairs, None, case),
        )
        found = list(times)
    if as_json:
        documents = [
            {
                "latencies": [latency.model_dump() for latency in case.latencies],
                "speedup": None if case.speedup is None else case.speedup.model_dump(),
            }
            for case in found
        ]
        echo_json(documents)
        return
    for case in found:
        for item in case.latencies:
            spread = f"{item.low_ms:.3f} to {item.high_ms:.3f}"
            click.echo(f"{item.case}: {item.median_ms:.3f} ms ({spread}, {item.runs} runs)  {item.subject}")
        if (ratio := case.speedup) is not None:
            interval = f"{ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}, {ratio.pairs} pairs"
            click.echo(f"  {ratio.speedup:.2f} times the speed of {ratio.baseline} ({interval})")
