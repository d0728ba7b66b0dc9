"""The line of stages for one recipe: each wired to what it reads, and obtained from the store.

Every method returns a stored result, building it and what it depends on first. Nothing heavy is imported and no
original is loaded until a stage really runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from enginery.engines import BuildSpec, DimRange, Engine, TensorSpec, get_engine
from enginery.errors import DataError, EngineError
from enginery.pipeline.events import Events, StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.keys import Key, make_key
from enginery.pipeline.machine import processor
from enginery.pipeline.originals import LazyOriginal, discover_outputs
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.recipe_file import LoadedRecipe
from enginery.pipeline.reference import EvaluationReference, ShapesReference, spec_to_json
from enginery.pipeline.store import Result, Store

if TYPE_CHECKING:
    from enginery.engines.base import Feeds, Session
    from enginery.passes.base import GraphPass, OpenModel
    from enginery.pipeline.data import DataSet
    from enginery.pipeline.shapes import Case
    from enginery.pipeline.validation import Score

FLOAT_MODES: Final = frozenset({Mode.FP32, Mode.FP16, Mode.BF16})
NEEDS_STATISTICS: Final = frozenset({Mode.INT8})
GOLDEN_BYTES: Final = 8 << 20
"""Golden inputs and the original's outputs take about this much of a bundle; one case is kept whatever it takes."""

BENCHMARK_SECONDS: Final = 6.0
MEMORY_BUDGET: Final = 2 << 30

RUNTIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "enginery.engines.onnxruntime": ("onnxruntime", "onnxruntime-gpu", "numpy"),
    "enginery.engines.tensorrt": ("tensorrt", "tensorrt-rtx-cu13", "tensorrt_cu13", "tensorrt_cu12", "numpy"),
    "enginery.engines.openvino": ("openvino", "numpy"),
}
"""The distributions behind each engine's module, for the keys of what they build."""

LITERAL: Final = "enginery.engines.onnxruntime"
"""The module that runs graphs for passes, proofs and calibration."""


class Line:
    """One recipe's stages. Results are remembered, so a stage is looked up once."""

    def __init__(
        self,
        loaded: LoadedRecipe,
        store: Store,
        events: Events,
        *,
        trust: bool = False,
        random_data: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        benchmark_seconds: float = BENCHMARK_SECONDS,
    ) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.store = store
        self.events = events
        self.trust = trust
        self.random_data = random_data
        self.memory_budget = memory_budget
        self.benchmark_seconds = benchmark_seconds
        self.inputs = tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.recipe.inputs.items())
        self.declared = tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.recipe.outputs.items())
        self.valid = {name: tensor.valid for name, tensor in self.recipe.outputs.items() if tensor.valid is not None}
        self.dims = {name: DimRange(dim.min, dim.opt, dim.max) for name, dim in self.recipe.dims.items()}
        self.original = LazyOriginal(self.recipe.source, loaded.folder, self.inputs, seed=self.recipe.seed, trust=trust)
        self.results: dict[StageName, Result] = {}
        self.keys: dict[StageName, Key] = {}

    # The original and its answers.

    @cached_property
    def source_digest(self) -> str:
        from enginery.pipeline.source import source_digest

        return source_digest(self.recipe.source, self.loaded.folder)

    @cached_property
    def load(self) -> Result:
        def run(folder: Path) -> None:
            from enginery.pipeline.stages.load import load

            load(folder, original=self.original.get())

        return self._obtain(
            StageName("load"),
            run,
            config={"seed": self.recipe.seed, "inputs": [spec.name for spec in self.inputs]},
            inputs={"source": self.source_digest},
            code=["enginery.pipeline.stages.load", "enginery.pipeline.source.load"],
            tools=self._source_tools,
        )

    @property
    def _source_tools(self) -> list[str]:
        kind = self.recipe.source.kind
        extra = {"hf": ["transformers"], "timm": ["timm"]}.get(kind, [])
        return ["onnxruntime", "numpy"] if kind == "onnx" else ["torch", "numpy", *extra]

    @cached_property
    def shapes_result(self) -> Result:
        def run(folder: Path) -> None:
            from enginery.pipeline.stages.reference import reference_shapes

            reference_shapes(
                folder,
                run=self._original_session().run,
                inputs=self.inputs,
                dims=self.dims,
                declared=self.declared,
                batches=self.evaluation.batches if self.evaluation is not None else None,
                seed=self.recipe.seed,
                progress=self._progress(StageName("reference", "shapes"), "shapes"),
            )

        return self._obtain(
            StageName("reference", "shapes"),
            run,
            config={**self._signature, "seed": self.recipe.seed},
            inputs={**self._original_inputs, **self._evaluation_input},
            code=["enginery.pipeline.stages.reference", "enginery.pipeline.originals", "enginery.engines.pytorch"],
            tools=self._source_tools,
        )

    @property
    def shapes(self) -> ShapesReference:
        return ShapesReference.open(self.shapes_result.folder)

    @cached_property
    def evaluation_result(self) -> Result | None:
        data = self.evaluation
        if data is None:
            return None

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.reference import reference_evaluation

            session = self._original_session()
            progress = self._progress(StageName("reference", "evaluation"), "batches")
            reference_evaluation(folder, run=session.run, batches=data.batches, progress=progress)

        return self._obtain(
            StageName("reference", "evaluation"),
            run,
            config={**self._signature, "outputs": [spec_to_json(spec) for spec in self.outputs]},
            inputs={**self._original_inputs, **self._evaluation_input},
            code=["enginery.pipeline.stages.reference", "enginery.pipeline.originals", "enginery.engines.pytorch"],
            tools=self._source_tools,
        )

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as the recipe declares them, or as the original was seen to return them."""
        return self.shapes.outputs

    def _original_session(self) -> Session:
        """The original, with the names of its outputs: declared, discovered, or those of the shapes reference."""
        original = self.original.get()
        self.original.check_digest(self.load.json("original.json")["weights_digest"])
        if self.declared or original.onnx is not None:
            return self.original.session(self.declared)
        if "shapes_result" in self.__dict__:
            return self.original.session(self.outputs)
        assert original.module is not None
        names = discover_outputs(original.module, self._example())
        return self.original.session(tuple(TensorSpec(name, "float32", ()) for name in names))

    def _example(self) -> dict[str, Any]:
        from enginery.pipeline.shapes import fit, random_inputs

        sizes = {name: dim.opt for name, dim in self.dims.items()}
        for batch in self.evaluation.batches() if self.evaluation is not None else ():
            return fit(batch.inputs, self.inputs, sizes)
        return random_inputs(self.inputs, sizes, self.recipe.seed)

    # Data.

    @cached_property
    def evaluation(self) -> DataSet | None:
        return self._open_data("evaluation")

    @cached_property
    def calibration(self) -> DataSet | None:
        return self._open_data("calibration")

    def _open_data(self, name: str) -> DataSet | None:
        from enginery.pipeline.data import open_data

        data = getattr(self.recipe.data, name)
        if data is None:
            return None
        return open_data(data, self.loaded.folder, self.recipe.inputs, self.recipe.dims)

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Digests of the data sets in use, by name."""
        found = {"evaluation": self.evaluation, "calibration": self.calibration}
        return {name: data.digest() for name, data in found.items() if data is not None}

    @property
    def _evaluation_input(self) -> dict[str, str]:
        return {"evaluation": self.data_digests.get("evaluation", "none")}

    def calibration_feeds(self) -> Callable[[], Iterable[Feeds]]:
        """Open the calibration inputs anew at each call.

        Raises:
            DataError: the recipe names none, and random data was not asked for.
        """
        data = self.calibration
        if data is not None:
            return lambda: (batch.inputs for batch in data.batches())
        if self.random_data:
            from enginery.passes.calibration import random_batches

            return random_batches(
                {spec.name: spec.shape for spec in self.inputs},
                {spec.name: spec.dtype for spec in self.inputs},
                {name: (dim.min, dim.opt, dim.max) for name, dim in self.dims.items()},
                seed=self.recipe.seed,
            )
        raise DataError(
            f"{self.recipe.name}: int8 needs calibration data and the recipe names none. Add `data.calibration` with "
            "real inputs; `--random-data` is for smoke tests, and its engines pass no gate."
        )

    # The graph.

    @cached_property
    def export(self) -> Result:
        reference = self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages import export

            reference.verify()
            original = self.original.get()
            self.original.check_digest(self.load.json("original.json")["weights_digest"])
            if original.onnx is not None:
                export.export_onnx(folder, model=original.onnx)
            else:
                assert original.module is not None
                export.export_module(
                    folder,
                    module=original.module,
                    example=self.shapes.inputs_of(self.shapes.case("odd")),
                    inputs=self.inputs,
                    outputs=self.outputs,
                    dims=self.dims,
                    opset=self.recipe.opset,
                )
            export.check_export(folder, self.shapes, inputs=self.inputs, valid=self.valid, open_model=self.open_model)

        return self._obtain(
            StageName("export"),
            run,
            config={**self._signature, "opset": self.recipe.opset, "valid": self.valid},
            inputs={**self._original_inputs, "reference": reference.digest},
            code=["enginery.pipeline.stages.export", LITERAL],
            tools=["torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime"],
        )

    def optimize(self, target: str) -> Result:
        from enginery.passes.spec import format_pass

        passes = self.graph_passes(target)
        exported, reference = self.export, self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.optimize import optimize

            exported.verify()
            shapes = self.shapes
            cases = {shapes.case(name).name: shapes.case(name) for name in ("min", "odd", "opt")}
            optimize(
                folder,
                model=exported.path("model/model.onnx"),
                passes=passes,
                open_model=self.open_model,
                feeds=[shapes.inputs_of(case) for case in cases.values()],
            )

        return self._obtain(
            StageName("optimize", target),
            run,
            config={"passes": [format_pass(each) for each in passes]},
            inputs={"model": exported.digest_of("model"), "reference": reference.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, *(type(each).__module__ for each in passes)],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def graph_passes(self, target: str) -> tuple[GraphPass, ...]:
        """The passes that the recipe asks for, or the target's defaults."""
        from enginery.passes.graph import default_passes, graph_passes
        from enginery.passes.spec import parse_pass

        if self.recipe.graph_passes == "default":
            return default_passes(target)
        registry = graph_passes()
        return tuple(parse_pass(text, registry) for text in self.recipe.graph_passes)

    def calibrate(self, target: str) -> Result:
        """The statistics. They depend on the optimized graph, not on the target: equal graphs share them."""
        optimized = self.optimize(target)
        feeds = self.calibration_feeds()
        masks = sorted(set(self.valid.values()))
        stage = StageName("calibrate", target)

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.calibrate import calibrate

            optimized.verify()
            calibrate(
                folder,
                model=optimized.path("model/model.onnx"),
                batches=feeds,
                inputs=self.inputs,
                dims=self.dims,
                masks=masks,
                open_model=self.open_model,
                memory_budget=self.memory_budget,
                random=self.random_data,
                progress=self._progress(stage, "batches"),
            )

        return self._obtain(
            stage,
            run,
            config={**self._signature, "masks": masks, "random": self.random_data},
            inputs={
                "model": optimized.digest_of("model"),
                "calibration": self.data_digests.get("calibration", "random"),
            },
            code=["enginery.pipeline.stages.calibrate", LITERAL],
            tools=["onnxruntime", "numpy", "onnx"],
        )

    def quantize(self, target: str, precision: Precision) -> Result:
        optimized = self.optimize(target)
        engine = self.engine(target)
        statistics = self.calibrate(target) if precision.mode in NEEDS_STATISTICS else None
        feeds = self.calibration_feeds() if statistics is not None else None

        def run(folder: Path) -> None:
            from enginery.passes.quantize import get_policy
            from enginery.pipeline.quantize_options import quantize_options
            from enginery.pipeline.stages.quantize import quantize

            optimized.verify()
            if statistics is not None:
                statistics.verify()
            quantize(
                folder,
                model=optimized.path("model/model.onnx"),
                statistics=statistics.path("statistics") if statistics is not None else None,
                policy=get_policy(engine.policy),
                options=quantize_options(precision),
                open_model=self.open_model,
                batches=feeds,
            )

        return self._obtain(
            StageName("quantize", f"{target} {precision.mode}"),
            run,
            config={"precision": precision.model_dump(mode="json"), "policy": engine.policy},
            inputs={
                "model": optimized.digest_of("model"),
                "statistics": statistics.digest if statistics is not None else "none",
                "calibration": self.data_digests.get("calibration", "none") if feeds is not None else "none",
            },
            code=["enginery.pipeline.stages.quantize", "enginery.pipeline.quantize_options", LITERAL],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "scipy"],
        )

    def graph(self, target: str, precision: Precision) -> Result:
        """The graph that the engine is built from: optimized, and of the wanted precision."""
        if precision.mode is Mode.FP32 or precision.mode.value in self.engine(target).native:
            return self.optimize(target)
        return self.quantize(target, precision)

    # The engine.

    def engine(self, target: str) -> Engine:
        return get_engine(target)

    def spec(self, target: str, precision: Precision) -> BuildSpec:
        mode = precision.mode.value
        native = mode if mode in self.engine(target).native else Mode.FP32.value
        return BuildSpec(self.inputs, self.outputs, self.dims, self.recipe.engine.get(target, {}), native)

    def compile(self, target: str, precision: Precision) -> Result:
        """Compile the graph for the target.

        Raises:
            EngineError: this machine cannot build for the target; the message says what to install.
        """
        engine = self.engine(target)
        if reason := engine.cannot_build():
            raise EngineError(f"compile: cannot build for {target} here: {reason}")
        graph = self.graph(target, precision)

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.compile import compile_engine

            graph.verify()
            compile_engine(
                folder, engine=engine, model=graph.path("model/model.onnx"), spec=self.spec(target, precision)
            )

        return self._obtain(
            StageName("compile", f"{target} {precision.mode}"),
            run,
            config={
                **self._signature,
                "target": target,
                "precision": self.spec(target, precision).precision,
                "options": self.recipe.engine.get(target, {}),
            },
            inputs={"model": graph.digest_of("model"), "outputs": self._outputs_digest, "machine": processor()},
            code=["enginery.pipeline.stages.compile", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def validate(self, target: str, precision: Precision) -> Result:
        engine, compiled = self.engine(target), self.compile(target, precision)
        stage = StageName("validate", f"{target} {precision.mode}")
        evaluation, shapes = self.evaluation_result, self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.compile import open_artifact
            from enginery.pipeline.stages.validate import validate
            from enginery.pipeline.validation import Validation

            for result in (compiled, shapes, *([evaluation] if evaluation is not None else [])):
                result.verify()
            with engine.load(open_artifact(compiled.folder), self.spec(target, precision)) as session:
                validation = Validation(
                    session=session,
                    shapes=self.shapes,
                    inputs=self.inputs,
                    valid=self.valid,
                    evaluation=EvaluationReference.open(evaluation.folder) if evaluation is not None else None,
                    batches=self.evaluation.batches if self.evaluation is not None else None,
                    score=self.score(),
                    scored=self.recipe.metric.output if self.recipe.metric is not None else None,
                    progress=self._progress(stage, "runs"),
                )
                validate(folder, validation=validation, golden=self.golden_cases())

        return self._obtain(
            stage,
            run,
            config={"valid": self.valid, "metric": self._metric_config, "golden": GOLDEN_BYTES},
            inputs={
                "engine": compiled.digest,
                "shapes": shapes.digest,
                "reference": evaluation.digest if evaluation is not None else "none",
                "machine": processor(),
                **self._evaluation_input,
            },
            code=["enginery.pipeline.stages.validate", "enginery.pipeline.data.metrics", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def benchmark(self, target: str, precision: Precision) -> Result:
        """Latencies; for other precisions than fp32 in turns with the float engine of the same target."""
        engine, compiled = self.engine(target), self.compile(target, precision)
        baseline = None if precision.mode is Mode.FP32 else self.compile(target, Precision())
        stage = StageName("benchmark", f"{target} {precision.mode}")

        def run(folder: Path) -> None:
            from contextlib import ExitStack

            from enginery.pipeline.stages.benchmark import benchmark
            from enginery.pipeline.stages.compile import open_artifact

            with ExitStack() as stack:
                # Two builds at once must not measure each other.
                stack.enter_context(
                    self.store.lock("benchmark", lambda: self.events.waiting(stage, "another build is measuring"))
                )
                sessions = [
                    stack.enter_context(engine.load(open_artifact(result.folder), self.spec(target, precision)))
                    for result in (compiled, baseline)
                    if result is not None
                ]
                case = self.shapes.case("opt")
                benchmark(
                    folder,
                    candidate=sessions[0],
                    baseline=sessions[1] if baseline is not None else None,
                    feeds=self.shapes.inputs_of(case),
                    case=str(case),
                    budget=self.benchmark_seconds,
                    seed=self.recipe.seed,
                    progress=self._progress(stage, "pairs"),
                )

        return self._obtain(
            stage,
            run,
            config={"seconds": self.benchmark_seconds, "seed": self.recipe.seed},
            inputs={
                "engine": compiled.digest,
                "baseline": baseline.digest if baseline is not None else "none",
                "shapes": self.shapes_result.digest,
                "machine": processor(),
            },
            code=["enginery.pipeline.stages.benchmark", type(engine).__module__],
            tools=RUNTIMES.get(type(engine).__module__, ()),
        )

    def golden_cases(self) -> list[Case]:
        """The shapes whose inputs and outputs go into the bundle: small ones first, until they take too much."""
        shapes = self.shapes
        names = dict.fromkeys(shapes.case(name).name for name in ("min", "odd", "opt"))
        chosen: list[Case] = []
        size = 0
        for name in names:
            files = [f"cases/{name}.inputs.npz", f"cases/{name}.outputs.npz"]
            size += sum(self.shapes_result.path(file).stat().st_size for file in files)
            if chosen and size > GOLDEN_BYTES:
                break
            chosen.append(shapes.case(name))
        return chosen

    def score(self) -> Callable[[], Score] | None:
        """Begins a measurement of the recipe's task metric, where there is one."""
        metric = self.recipe.metric
        if metric is None:
            return None
        from enginery.pipeline.data.metrics import get_metric

        return lambda: get_metric(metric, self.loaded.folder)

    # Wiring.

    @cached_property
    def open_model(self) -> OpenModel:
        return import_module(LITERAL).open_model

    @property
    def _signature(self) -> dict[str, Any]:
        return {
            "inputs": [spec_to_json(spec) for spec in self.inputs],
            "outputs": [spec_to_json(spec) for spec in self.declared],
            "dims": {name: [dim.min, dim.opt, dim.max] for name, dim in self.dims.items()},
        }

    @property
    def _original_inputs(self) -> dict[str, str]:
        # The weights' digest is in the loaded result; code that is not weights is in the source's digest.
        return {"source": self.source_digest, "load": self.load.digest}

    @property
    def _outputs_digest(self) -> str:
        return digest_json([spec_to_json(spec) for spec in self.outputs])

    @property
    def _metric_config(self) -> Any:
        metric = self.recipe.metric
        if metric is None:
            return None
        # Bounds are judged by the gates: changing one measures nothing anew.
        config = metric.model_dump(mode="json", include={"name", "python", "output"})
        if metric.python is not None:
            from enginery.pipeline.source.callables import Reference
            from enginery.pipeline.source.digest import code_facts

            config["code"] = code_facts(Reference.parse(metric.python, self.loaded.folder))
        return config

    def _progress(self, stage: StageName, what: str) -> Callable[[int, int | None], None]:
        return lambda done, total: self.events.progress(stage, done, total, what)

    def _obtain(
        self,
        stage: StageName,
        run: Callable[[Path], None],
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        code: Iterable[str],
        tools: Iterable[str],
    ) -> Result:
        if stage in self.results:
            return self.results[stage]
        key = make_key(stage.stage, config=config, inputs=inputs, code=code, tools=tools)
        line = f"{self.recipe.name}-{digest_json(str(self.loaded.path))[:12]}"
        self.results[stage] = self.store.obtain(stage, key, line, run, self.events)
        return self.results[stage]
