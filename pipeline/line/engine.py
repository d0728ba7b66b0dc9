"""The last stages of a line: compile, validate, benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enginery.engines import BuildSpec, Session
from enginery.engines.base import Sizes
from enginery.errors import EngineError
from enginery.pipeline.comparison.reference import spec_to_json
from enginery.pipeline.comparison.shapes import cases
from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.line.graph import MODEL
from enginery.pipeline.line.precision import FLOAT_MODES, PrecisionStages
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.machine import processor
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.source.opened import LiteralSession
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    from enginery.pipeline.comparison.shapes import Case
    from enginery.pipeline.comparison.validation import Validation

GOLDEN_BYTES: Final = 8 << 20
"""Golden inputs and the original's outputs take about this much of a bundle; one case is kept whatever it takes."""

RUNTIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "enginery.engines.onnxruntime": ("onnxruntime", "onnxruntime-gpu", "numpy"),
    "enginery.engines.tensorrt.engine": ("tensorrt", "tensorrt-rtx-cu13", "tensorrt_cu13", "tensorrt_cu12", "numpy"),
    "enginery.engines.openvino": ("openvino", "numpy"),
}
"""The distributions behind each engine's module, for the keys of what they build."""


class Line(PrecisionStages):
    """The line of stages for one recipe: each wired to what it reads, and obtained from the store.

    Every stage's method returns its stored result, building it and what it depends on first. Nothing heavy is imported
    and no original is loaded until a stage really runs.
    """

    def spec(self, target: str, precision: Precision) -> BuildSpec:
        mode = precision.mode.value if precision.mode in FLOAT_MODES else precision.rest
        native = mode if mode in self.engine(target).native else Mode.FP32.value
        options = self.recipe.engine.get(target, {})
        quantized = precision.mode not in FLOAT_MODES
        shapes = self.shapes_run_most() if self.engine(target).specializes else ()
        return BuildSpec(self.inputs, self.outputs, self.dims, options, native, quantized, shapes)

    def shapes_run_most(self) -> tuple[Sizes, ...]:
        """Opt, then the recipe's `shapes`; nothing where no dimension is dynamic."""
        opt = {name: dim.opt for name, dim in self.dims.items()}
        found = [opt, *({**opt, **sizes} for sizes in self.recipe.shapes)] if opt else []
        return tuple(sizes for index, sizes in enumerate(found) if sizes not in found[:index])

    def compile(self, target: str, precision: Precision) -> Result:
        """Compile the graph for the target.

        Raises:
            EngineError: this machine cannot build for the target; the message says what to install.
        """
        engine = self.engine(target)
        if reason := engine.cannot_build():
            raise EngineError(f"compile: cannot build for {target} here: {reason}")
        options = self.recipe.engine.get(target, {})
        engine.check_options(options, self.dims, [case.sizes for case in cases(self.dims, self.recipe.shapes)])
        graph = self.graph(target, precision)

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.compile import compile_engine

            graph.verify()
            cached = replace(self.spec(target, precision), cache=self.store.workdir("engines"))
            compile_engine(folder, engine=engine, model=graph.path(MODEL), spec=cached)

        spec = self.spec(target, precision)
        return self.obtain(
            StageName("compile", f"{target} {precision.mode}"),
            run,
            config={
                **self.signature,
                "target": target,
                "precision": spec.precision,
                "options": dict(spec.options),
                **({"shapes": [dict(sizes) for sizes in spec.shapes]} if spec.shapes else {}),
            },
            inputs={
                "model": graph.digest_of("model"),
                "outputs": digest_json([spec_to_json(output) for output in self.outputs]),
                "machine": processor(),
                **({"devices": devices} if (devices := engine.builds_for()) else {}),
            },
            code=["enginery.pipeline.stages.compile", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def open(self, target: str, precision: Precision) -> Session:
        """The compiled engine, its files verified."""
        from enginery.pipeline.stages.compile import open_artifact

        compiled = self.compile(target, precision)
        compiled.verify()
        return self.engine(target).load(open_artifact(compiled.folder), self.spec(target, precision))

    def engine_bytes(self, target: str, precision: Precision) -> int:
        """The size of the compiled engine's files."""
        compiled = self.compile(target, precision)
        return sum(compiled.path(name).stat().st_size for name in compiled.files if name.startswith("engine/"))

    def validate(self, target: str, precision: Precision) -> Result:
        """Compare the engine with the subject."""
        engine, compiled = self.engine(target), self.compile(target, precision)
        stage = StageName("validate", f"{target} {precision.mode}")

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.validate import validate

            with self.open(target, precision) as session:
                validate(folder, validation=self.validation(stage, session), golden=self.golden_cases())

        return self.obtain(
            stage,
            run,
            config={"valid": self.valid, "metric": self.metric_config, "golden": GOLDEN_BYTES},
            inputs={"engine": compiled.digest, **self._compared_with},
            code=["enginery.pipeline.stages.validate", "enginery.pipeline.data.metrics", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def validate_graph(self, target: str, precision: Precision) -> Result:
        """Compare the graph that the engine is built from, run literally: all there is where the engine cannot run."""
        graph = self.graph(target, precision)
        stage = StageName("validate", f"{target} {precision.mode} graph")

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.validate import validate

            graph.verify()
            with LiteralSession(graph.path(MODEL), self.inputs, self.outputs, self.dims) as session:
                validate(folder, validation=self.validation(stage, session), golden=[])

        return self.obtain(
            stage,
            run,
            config={"valid": self.valid, "metric": self.metric_config, "outputs": self.signature["outputs"]},
            inputs={"model": graph.digest_of("model"), **self._compared_with},
            code=["enginery.pipeline.stages.validate", "enginery.pipeline.data.metrics", LITERAL],
            tools=RUNTIMES[LITERAL],
        )

    @property
    def _compared_with(self) -> dict[str, str]:
        answers, scored = self.evaluation_result, self.scored_result
        return {
            "shapes": self.shapes_result.digest,
            "reference": answers.digest if answers is not None else "none",
            "scored": scored.digest if scored is not None else "none",
            "machine": processor(),
            **self.data_input("evaluation"),
        }

    def validation(self, stage: StageName, session: Session) -> Validation:
        from enginery.pipeline.comparison.validation import Validation

        for result in (self.shapes_result, self.evaluation_result, self.scored_result):
            if result is not None:
                result.verify()
        return Validation(
            session=session,
            shapes=self.shapes,
            inputs=self.inputs,
            valid=self.valid,
            evaluation=self.open_answers(self.evaluation_result),
            original=self.open_answers(self.scored_result),
            batches=self.evaluation.batches if self.evaluation is not None else None,
            score=self.score(),
            scored=self.recipe.metric.output if self.recipe.metric is not None else None,
            progress=self.progress(stage, "runs"),
        )

    def benchmark(self, target: str, precision: Precision) -> Result:
        """Latencies; for other precisions than fp32 in turns with the float engine of the same target."""
        engine, compiled = self.engine(target), self.compile(target, precision)
        baseline = None if precision.mode is Mode.FP32 else self.compile(target, Precision())
        stage = StageName("benchmark", f"{target} {precision.mode}")

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.benchmark import benchmark

            with ExitStack() as stack:
                # Two builds at once must not measure each other.
                stack.enter_context(
                    self.store.lock("benchmark", lambda: self.events.waiting(stage, "another build is measuring"))
                )
                case = self.shapes.case("opt")
                benchmark(
                    folder,
                    candidate=stack.enter_context(self.open(target, precision)),
                    baseline=stack.enter_context(self.open(target, Precision())) if baseline is not None else None,
                    original=self.timed_original(),
                    feeds=self.shapes.inputs_of(case),
                    case=str(case),
                    budget=self.benchmark_seconds,
                    seed=self.recipe.seed,
                    progress=self.progress(stage, "pairs"),
                )

        return self.obtain(
            stage,
            run,
            config={"seconds": self.benchmark_seconds, "seed": self.recipe.seed},
            inputs={
                "engine": compiled.digest,
                "baseline": baseline.digest if baseline is not None else "none",
                "shapes": self.shapes_result.digest,
                "source": self.source_digest,
                "machine": processor(),
            },
            code=["enginery.pipeline.stages.benchmark", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def golden_cases(self) -> list[Case]:
        """The shapes whose inputs and outputs a bundle carries: small ones, then the recipe's; up to `GOLDEN_BYTES`."""
        shapes = self.shapes
        own = [case.name for case in shapes.cases if case.sizes in self.shapes_run_most()]
        names = dict.fromkeys(shapes.case(name).name for name in ("min", "odd", "opt", *own))
        chosen: list[Case] = []
        size = 0
        for name in names:
            files = [f"cases/{name}.inputs.npz", f"cases/{name}.outputs.npz"]
            size += sum(self.shapes_result.path(file).stat().st_size for file in files)
            if chosen and size > GOLDEN_BYTES:
                break
            chosen.append(shapes.case(name))
        return chosen
