"""Validates a bundle where it is to run: on its golden inputs, and with its recipe against the original itself.

With the recipe, what a build had to defer (an engine that could not run on the machine that built it) is completed
(`complete.py`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enginery.engines import Session, get_engine
from enginery.engines.base import Arrays
from enginery.errors import EngineError, GateRefusedError, IntegrityError, UsageError
from enginery.pipeline.bundle import Bundle, verify_bundle
from enginery.pipeline.bundle.folder import Verified
from enginery.pipeline.bundle.manifest import GateVerdict, Manifest
from enginery.pipeline.bundle.signature import check_key, write_public_key
from enginery.pipeline.comparison import OutputFigures, compare
from enginery.pipeline.comparison.figures import CaseFigures, Measured, SpeedFigures
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.gates import Question, judge, refusals
from enginery.pipeline.line import FLOAT_MODES, Line
from enginery.pipeline.npz import read_npz
from enginery.pipeline.recipe import Mode, Precision, Recipe
from enginery.pipeline.recipe.file import LoadedRecipe
from enginery.pipeline.release.sign import Signer
from enginery.pipeline.report import StageTime
from enginery.pipeline.revalidation.complete import Completion, complete
from enginery.pipeline.store import Store

GOLDEN_GATES = frozenset({"outputs", "shapes", "accuracy-float", "accuracy-int8", "fallback"})
"""The gates that golden inputs and outputs can answer."""


@dataclass(frozen=True)
class Revalidation:
    """What was measured. `against_build` compares with the engine's own golden outputs, case by case.

    `full` says whether the recipe's evaluation data was run; `completed` whether deferred gates of the bundle now hold;
    `signed` whether it was signed anew.
    """

    bundle: Path
    gates: tuple[GateVerdict, ...]
    measured: Measured
    against_build: tuple[CaseFigures, ...]
    full: bool
    completed: bool
    signed: bool


def revalidate(
    path: Path,
    *,
    recipe: LoadedRecipe | None = None,
    store: Store | None = None,
    allow: Collection[str] = (),
    trust: bool = False,
    public_key: Path | None = None,
    signer: Signer | None = None,
    drop_signature: bool = False,
    events: Events | None = None,
) -> Revalidation:
    """Verify the bundle at `path`, run its engine here and ask the gates again.

    A bundle whose gates waited is completed when all of them hold: it is written anew with what was measured here.

    Args:
        path: the bundle.
        recipe: the recipe that it was built from, for the whole comparison; None: its golden inputs only.
        store: where the original's answers are kept (default: beside the bundle's output folder).
        allow: gates that may refuse; those that the bundle was built with are allowed as well.
        trust: whether the recipe's source may be loaded though it can execute code.
        public_key: demand a signature that this key verifies.
        signer: signs the completed bundle. What it signs it must know: an earlier signature has to hold for
            `public_key`, or for the signer's own key.
        drop_signature: leave a signed bundle unsigned when it is completed.
        events: hears what happens.

    Raises:
        UsageError: the bundle is signed, would be completed, and nothing says who signs it then.
        IntegrityError: the bundle was touched, or belongs to another recipe.
        EngineError: the engine cannot run here.
        GateRefusedError: a gate refused.
    """
    path = path.resolve()
    verified = _verify(path, public_key, signer)
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    completes = recipe is not None and not manifest.validated
    if completes and verified.signed and signer is None and not drop_signature:
        raise UsageError(
            f"{path} is signed. Completing its gates changes its manifest, so that the signature would not hold. Give "
            "the key to sign it anew (--key KEY), or say --drop-signature."
        )
    engine = get_engine(manifest.target)
    if reason := engine.cannot_run():
        raise EngineError(f"{path} cannot be run here: {reason}")
    line = None
    if recipe is not None:
        line = Line(recipe, store or Store.beside(path.absolute().parent.parent), events or Events(), trust=trust)
        _check_same(line, manifest, path)
    timed: Mapping[str, Any] = {}
    stages: tuple[StageTime, ...] = ()
    with engine.load(bundle.artifact, bundle.spec) as session:
        if line is None:
            measured = _golden(bundle, session)
        else:
            measured, timed, stages = _measure(line, bundle, session)
        answers = {case.name: session.run(read_npz(path / case.inputs)) for case in manifest.golden}
        against = _against_build(bundle, answers)
    verdicts = _judge(manifest, measured, {*allow, *manifest.allowed}, line)
    if refused := refusals(verdicts):
        words = "; ".join(f"{verdict.gate}: {verdict.words}" for verdict in refused)
        raise GateRefusedError(f"{path} does not hold here. {words}. Do not deploy it on this machine.")
    if completes and line is not None:
        complete(line, bundle, Completion(measured, verdicts, answers, timed, stages), signer)
    signed = completes and signer is not None
    return Revalidation(path, verdicts, measured, against, full=line is not None, completed=completes, signed=signed)


def _verify(path: Path, public_key: Path | None, signer: Signer | None) -> Verified:
    """Verify the bundle before its engine is loaded; whoever signs anew must know what was signed before."""
    if signer is None:
        return verify_bundle(path, public_key=public_key, before_signing=True)
    check_key(signer.key, signer.password)
    verified = verify_bundle(path, public_key=public_key, before_signing=True)
    if not verified.signed or verified.public_key is not None:
        return verified
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "key.pub"
        write_public_key(signer.key, own, signer.password)
        try:
            return verify_bundle(path, public_key=own, before_signing=True)
        except IntegrityError as error:
            raise IntegrityError(
                f"{path} carries a signature that {signer.key} did not make, or that does not hold any more. To sign "
                "what another key vouched for, verify that signature as well: --public-key KEY."
            ) from error


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


def _against_build(bundle: Bundle, answers: dict[str, Arrays]) -> tuple[CaseFigures, ...]:
    found: list[CaseFigures] = []
    for case in bundle.manifest.golden:
        if case.outputs is not None:
            before = read_npz(bundle.path / case.outputs)
            figures: tuple[OutputFigures, ...] = compare(before, answers[case.name], bundle.spec.outputs, 0.0).outputs
            found.append(CaseFigures(case.name, figures))
    return tuple(found)


def _measure(line: Line, bundle: Bundle, session: Session) -> tuple[Measured, Mapping[str, Any], tuple[StageTime, ...]]:
    """The whole comparison; the times, where the bundle claims a speed or says none yet; and how long each took."""
    manifest = bundle.manifest
    stage = StageName("validate", f"{manifest.target} {manifest.precision}")
    begin = time.perf_counter()
    measured = line.validation(stage, session).measure()
    stages = (_stage(stage, begin),)
    claims_speed = manifest.precision != Mode.FP32.value
    if measured.faults or not (claims_speed or not manifest.validated):
        return measured, {}, stages
    begin = time.perf_counter()
    timed = _benchmark(line, bundle, session, stage)
    stages += (_stage(replace(stage, stage="benchmark"), begin),)
    speed = None if timed["speed"] is None else SpeedFigures(**timed["speed"])
    return replace(measured, speed=speed), timed, stages


def _benchmark(line: Line, bundle: Bundle, session: Session, stage: StageName) -> Mapping[str, Any]:
    """Time the engine as a build's benchmark stage does, in turns with the float engine and the original."""
    from enginery.pipeline.stages.benchmark import FILE, benchmark

    manifest = bundle.manifest
    with ExitStack() as stack:
        stack.enter_context(line.store.lock("benchmark", lambda: None))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        is_float = manifest.precision == Mode.FP32.value
        case = line.shapes.case("opt")
        benchmark(
            folder,
            candidate=session,
            baseline=None if is_float else stack.enter_context(line.open(manifest.target, Precision())),
            original=line.timed_original(),
            feeds=line.shapes.inputs_of(case),
            case=str(case),
            budget=line.benchmark_seconds,
            seed=line.recipe.seed,
            progress=line.progress(stage, "pairs"),
        )
        timed: Mapping[str, Any] = json.loads((folder / FILE).read_bytes())
    return timed


def _stage(name: StageName, begin: float) -> StageTime:
    seconds = time.perf_counter() - begin
    return StageTime(stage=name.stage, label=name.label, seconds=seconds, reused=False, why="run where the engine runs")


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
