"""Validates a bundle where it is to run: on its golden inputs, and with its recipe against the original itself.

With the recipe, what a build had to defer (an engine that could not run on the machine that built it) is completed:
the bundle then says what was measured here, and loses any signature, since it is another bundle now.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from enginery.engines import Session, get_engine
from enginery.errors import EngineError, GateRefusedError, IntegrityError
from enginery.pipeline import bundle as bundles
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.manifest import FILE_NAME, GateVerdict, GoldenCase, Manifest, Verdict
from enginery.pipeline.bundle.placing import placing
from enginery.pipeline.comparison import OutputFigures, compare
from enginery.pipeline.comparison.figures import CaseFigures, Measured, SpeedFigures
from enginery.pipeline.deliver import place_lock
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.gates import Question, judge, refusals, without_timing
from enginery.pipeline.line import FLOAT_MODES, Line
from enginery.pipeline.npz import read_npz, write_npz
from enginery.pipeline.recipe import Mode, Precision, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.store import Store

GOLDEN_GATES = frozenset({"outputs", "shapes", "accuracy-float", "accuracy-int8", "fallback"})
"""The gates that golden inputs and outputs can answer."""


@dataclass(frozen=True)
class Revalidation:
    """What was measured. `against_build` compares with the engine's own golden outputs, case by case.

    `full` says whether the recipe's evaluation data was run; `completed` whether deferred gates of the bundle now hold.
    """

    bundle: Path
    gates: tuple[GateVerdict, ...]
    measured: Measured
    against_build: tuple[CaseFigures, ...]
    full: bool
    completed: bool


def revalidate(
    path: Path,
    *,
    recipe: LoadedRecipe | None = None,
    store: Store | None = None,
    allow: Collection[str] = (),
    trust: bool = False,
    events: Events | None = None,
) -> Revalidation:
    """Verify the bundle at `path`, run its engine here and ask the gates again.

    Args:
        path: the bundle.
        recipe: the recipe that it was built from, for the whole comparison; None: its golden inputs only.
        store: where the original's answers are kept (default: beside the bundle's output folder).
        allow: gates that may refuse; those that the bundle was built with are allowed as well.
        trust: whether the recipe's source may be loaded though it can execute code.
        events: hears what happens.

    Raises:
        IntegrityError: the bundle was touched, or belongs to another recipe.
        EngineError: the engine cannot run here.
        GateRefusedError: a gate refused.
    """
    path = path.resolve()
    verify_bundle(path, before_signing=True)
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    engine = get_engine(manifest.target)
    if reason := engine.cannot_run():
        raise EngineError(f"{path} cannot be run here: {reason}")
    line = None
    if recipe is not None:
        line = Line(recipe, store or Store.beside(path.absolute().parent.parent), events or Events(), trust=trust)
        _check_same(line, manifest, path)
    with engine.load(bundle.artifact, bundle.spec) as session:
        golden = _golden(bundle, session)
        measured = golden if line is None else _measure(line, bundle, session)
        answers = {case.name: session.run(read_npz(path / case.inputs)) for case in manifest.golden}
        against = _against_build(bundle, answers)
    verdicts = _judge(manifest, measured, {*allow, *manifest.allowed}, line)
    if refused := refusals(verdicts):
        words = "; ".join(f"{verdict.gate}: {verdict.words}" for verdict in refused)
        raise GateRefusedError(f"{path} does not hold here. {words}. Do not deploy it on this machine.")
    completed = line is not None and not manifest.validated
    if completed and line is not None:
        _complete(line, bundle, verdicts, answers)
    return Revalidation(path, verdicts, measured, against, full=line is not None, completed=completed)


def _check_same(line: Line, manifest: Manifest, path: Path) -> None:
    found = line.load.json("original.json")["weights_digest"]
    expected = manifest.original.get("weights_digest")
    if line.recipe.name != manifest.name or found != expected:
        raise IntegrityError(
            f"{path} was built from {manifest.name!r} with weights {str(expected)[:12]}; the recipe is "
            f"{line.recipe.name!r} with weights {found[:12]}. Give the recipe that the bundle was built from."
        )


def _golden(bundle: Bundle, session: Session) -> Measured:
    """Compare with the original's golden outputs."""
    manifest, spec = bundle.manifest, bundle.spec
    recipe = Recipe.model_validate(manifest.recipe)
    valid = {name: tensor.valid for name, tensor in recipe.outputs.items() if tensor.valid is not None}
    cases: list[CaseFigures] = []
    faults: list[str] = []
    for case in manifest.golden:
        feeds, original = read_npz(bundle.path / case.inputs), read_npz(bundle.path / case.original)
        try:
            outputs = session.run(feeds)
        except EngineError as error:
            faults.append(f"the engine fails on the golden case {case.name}: {error}")
            continue
        found = compare(original, outputs, spec.outputs, 0.0, inputs=feeds, valid=valid, input_specs=spec.inputs)
        cases.append(CaseFigures(f"golden {case.name}", found.outputs))
    return Measured(faults=tuple(faults), cases=tuple(cases), session=session.describe())


def _against_build(bundle: Bundle, answers: dict[str, dict[str, np.ndarray]]) -> tuple[CaseFigures, ...]:
    found: list[CaseFigures] = []
    for case in bundle.manifest.golden:
        if case.outputs is not None:
            before = read_npz(bundle.path / case.outputs)
            figures: tuple[OutputFigures, ...] = compare(before, answers[case.name], bundle.spec.outputs, 0.0).outputs
            found.append(CaseFigures(case.name, figures))
    return tuple(found)


def _measure(line: Line, bundle: Bundle, session: Session) -> Measured:
    """The whole comparison, and the speed where the bundle claims one."""
    manifest = bundle.manifest
    stage = StageName("validate", f"{manifest.target} {manifest.precision}")
    measured = line.validation(stage, session).measure()
    if manifest.precision == Mode.FP32.value or measured.faults:
        return measured
    from enginery.pipeline.stages.benchmark import measure, speed_figures

    with ExitStack() as stack:
        stack.enter_context(line.store.lock("benchmark", lambda: None))
        baseline = stack.enter_context(line.open(manifest.target, Precision()))
        feeds = line.shapes.inputs_of(line.shapes.case("opt"))
        generator = np.random.default_rng(line.recipe.seed)
        progress = line.progress(stage, "pairs")
        times = measure(session, baseline, feeds, line.benchmark_seconds, generator, progress)
        assert times.baseline is not None
        speed = SpeedFigures(**speed_figures(times.baseline / times.candidate, generator))
    return replace(measured, speed=speed)


def _judge(
    manifest: Manifest, measured: Measured, allow: Collection[str], line: Line | None
) -> tuple[GateVerdict, ...]:
    recipe = line.recipe if line is not None else Recipe.model_validate(manifest.recipe)
    mode = Mode(manifest.precision)
    question = Question(
        recipe=recipe,
        mode=mode,
        target=manifest.target,
        measured=measured,
        real_data=line is not None and line.evaluation is not None,
        random_calibration=mode not in FLOAT_MODES and recipe.data.calibration is None and mode is Mode.INT8,
    )
    verdicts = judge(question, allow)
    return verdicts if line is not None else tuple(verdict for verdict in verdicts if verdict.gate in GOLDEN_GATES)


def _complete(
    line: Line, bundle: Bundle, verdicts: Collection[GateVerdict], answers: dict[str, dict[str, np.ndarray]]
) -> None:
    """Write the bundle anew with what was measured here, in place of the one whose gates were deferred."""
    manifest, place = bundle.manifest, bundle.path.absolute()
    with line.store.lock(place_lock(place), lambda: None), placing(place) as fresh:
        shutil.copytree(place, fresh, dirs_exist_ok=True)
        for name in (*bundles.RELEASE_FILES, bundles.SUMS):
            (fresh / name).unlink(missing_ok=True)
        golden = tuple(_with_outputs(case, fresh, answers[case.name]) for case in manifest.golden)
        added = [case.outputs for case in golden if case.outputs is not None]
        changes = {
            "validated": True,
            "complete_with": None,
            "gates": tuple(without_timing(verdict) for verdict in verdicts),
            "allowed": tuple(sorted({v.gate for v in verdicts if v.verdict is Verdict.ALLOWED})),
            "golden": golden,
            "files": {**manifest.files, **bundles.file_records(fresh, added)},
        }
        (fresh / FILE_NAME).write_text(manifest.model_copy(update=changes).to_json())
        bundles.write_sums(fresh)
        bundles.verify_digests(fresh)


def _with_outputs(case: GoldenCase, folder: Path, outputs: dict[str, np.ndarray]) -> GoldenCase:
    name = f"golden/{case.name}.outputs.npz"
    write_npz(folder / name, outputs)
    return case.model_copy(update={"outputs": name})
