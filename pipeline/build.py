"""The main job: a recipe becomes a bundle, or a report that says why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.engines import get_engine, targets
from enginery.errors import GateRefusedError, UsageError
from enginery.pipeline.bundle import postprocess
from enginery.pipeline.comparison.figures import Measured, SpeedFigures
from enginery.pipeline.deliver import Delivery, refuse, ship
from enginery.pipeline.events import Events
from enginery.pipeline.gates import Question, check_allowed, judge, refusals
from enginery.pipeline.line import BENCHMARK_SECONDS, Line
from enginery.pipeline.recipe import Mode, Precision, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.store import Store

if TYPE_CHECKING:
    from enginery.pipeline.bundle.manifest import GateVerdict
    from enginery.pipeline.report import Candidate


@dataclass(frozen=True)
class BuildResult:
    """A shipped bundle. `reused` is true when the bundle was there already, file for file.

    `complete_with` is the command that completes deferred gates on a machine that can run the engine. `candidates` are
    what `auto` chose from, the choice first.
    """

    bundle: Path
    target: str
    precision: str
    gates: tuple[GateVerdict, ...]
    validated: bool
    reused: bool
    complete_with: str | None = None
    candidates: tuple[Candidate, ...] = ()


def build(
    recipe: LoadedRecipe,
    *,
    target: str | None = None,
    precision: str | None = None,
    output: Path = Path("build"),
    store: Store | None = None,
    allow: Collection[str] = (),
    trust: bool = False,
    random_data: bool = False,
    statistics: Path | None = None,
    benchmark_seconds: float = BENCHMARK_SECONDS,
    folder: str | None = None,
    candidates: Sequence[Candidate] = (),
    events: Events | None = None,
) -> BuildResult:
    """Build one bundle: `output/<model>/<target>-<precision>/`.

    Args:
        recipe: the loaded recipe.
        target: the engine to build for; default: the recipe's first.
        precision: a mode that replaces the recipe's; its options are kept.
        output: the folder for bundles.
        store: where stage results are kept; default: `ENGINERY_STORE`, or `.store` in `output`.
        allow: names of gates whose refusal is recorded instead of stopping the build.
        trust: whether a source may be loaded that can execute code.
        random_data: calibrate on noise where the recipe names no data. Such an engine passes no gate.
        statistics: a folder of statistics to use instead of calibrating.
        benchmark_seconds: how long the speed is measured.
        folder: name of the bundle's folder below `output/<model>` (default: `<target>-<precision>`).
        candidates: what this engine was chosen from, for the report.
        events: hears what happens.

    Raises:
        GateRefusedError: a gate refused; the report stands in the bundle's place.
        UsageError: the recipe, target, precision or gate named is wrong.
        EngineryError: a stage failed.
    """
    check_allowed(allow)
    postprocess.record(recipe.recipe, recipe.folder)  # a fault of the labels is said before anything is built
    line = Line(
        recipe,
        store or Store.beside(output),
        events or Events(),
        trust=trust,
        random_data=random_data,
        statistics=statistics,
        benchmark_seconds=benchmark_seconds,
    )
    chosen = choose_target(recipe.recipe, target)
    wanted = choose_precision(recipe.recipe, precision)
    delivery = Delivery(
        line, chosen, wanted, output / recipe.recipe.name / (folder or f"{chosen}-{wanted.mode}"), tuple(candidates)
    )
    question = measure_candidate(line, chosen, wanted, timed=True)
    verdicts = judge(question, allow)
    if refused := refusals(verdicts):
        refuse(delivery, question, verdicts)
        first = refused[0]
        more = f" Refused as well: {', '.join(v.gate for v in refused[1:])}." if len(refused) > 1 else ""
        raise GateRefusedError(
            f"Gate {first.gate} refused {recipe.recipe.name} for {chosen} in {wanted.mode}: {first.words}.{more} "
            f"The report: {delivery.folder / 'report.md'}. "
            f"To ship all the same: --allow {first.gate} (it is recorded).",
            delivery.folder,
        )
    reused = ship(delivery, question, verdicts, sorted(set(allow)))
    return BuildResult(
        bundle=delivery.folder,
        target=chosen,
        precision=wanted.mode.value,
        gates=verdicts,
        validated=question.deferred is None,
        reused=reused,
        complete_with=delivery.complete_with if question.deferred is not None else None,
    )


def choose_target(recipe: Recipe, target: str | None) -> str:
    """The target that was asked for, or the recipe's first.

    Raises:
        UsageError: there is no such target.
    """
    chosen = target or recipe.targets[0]
    if chosen not in targets():
        raise UsageError(f"Target {chosen!r} is unknown. Targets: {', '.join(targets())}.")
    return chosen


def choose_precision(recipe: Recipe, mode: str | None) -> Precision:
    """The recipe's precision, or its options with another mode.

    Raises:
        UsageError: there is no such mode.
    """
    if mode is None:
        if recipe.precision.mode is Mode.AUTO:
            raise UsageError("The recipe's precision is `auto`, which `enginery build` decides. Say --precision.")
        return recipe.precision
    known = [item.value for item in Mode if item is not Mode.AUTO]
    if mode not in known:
        raise UsageError(f"Precision {mode!r} is unknown here. Precisions: {', '.join(known)}.")
    return recipe.precision.model_copy(update={"mode": Mode(mode)})


def measure_candidate(line: Line, target: str, precision: Precision, *, timed: bool = False) -> Question:
    """Run every stage up to validation (`timed`: up to the benchmark), and gather what the gates look at."""
    deferred = get_engine(target).cannot_run()
    line.compile(target, precision)
    if deferred is not None:
        measured = Measured.from_json(line.validate_graph(target, precision).json("figures.json"))
    else:
        speed = None
        figures = line.validate(target, precision).json("figures.json")
        found = line.benchmark(target, precision).measured["speed"] if timed and not figures["faults"] else None
        if found is not None:
            speed = SpeedFigures(**found)
        measured = Measured.from_json(figures, speed)
    return Question(
        recipe=line.recipe,
        mode=precision.mode,
        target=target,
        measured=measured,
        real_data=line.evaluation is not None,
        random_calibration=line.calibrated_on_noise(precision),
        deferred=deferred,
    )
