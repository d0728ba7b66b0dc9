"""The middle stages of a line: export, optimize, calibrate, quantize."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enginery.engines import Engine, get_engine, targets
from enginery.errors import UsageError
from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.line.original import OriginalStages
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    from enginery.passes.base import GraphPass
    from enginery.passes.sequence import Prove

FLOAT_MODES: Final = frozenset({Mode.FP32, Mode.FP16, Mode.BF16})
TYPED_GRAPHS: Final = frozenset({"onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"})
"""Targets that compute in the types that the graph says and have kernels for half precision."""
NEEDS_STATISTICS: Final = frozenset({Mode.INT8})
MODEL: Final = "model/model.onnx"
PROVED_AT: Final = ("min", "odd", "opt")
"""The shapes at which every pass is proved."""


class GraphStages(OriginalStages):
    @cached_property
    def export(self) -> Result:
        reference = self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages import export

            reference.verify()
            module = self.subject()
            if module is None:
                model = self.original.get().onnx
                assert model is not None
                export.export_onnx(folder, model=model)
            else:
                export.export_module(
                    folder,
                    module=module,
                    example=self.shapes.inputs_of(self.shapes.case("odd")),
                    inputs=self.inputs,
                    outputs=self.outputs,
                    dims=self.dims,
                    opset=self.recipe.opset,
                )
            export.check_export(folder, self.shapes, inputs=self.inputs, valid=self.valid, open_model=self.open_model)

        return self.obtain(
            StageName("export"),
            run,
            config={**self.signature, "opset": self.recipe.opset, "valid": self.valid},
            inputs={**self.subject_inputs, "reference": reference.digest},
            code=["enginery.pipeline.stages.export", LITERAL],
            tools=["torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime"],
        )

    def graph_passes(self, target: str) -> tuple[GraphPass, ...]:
        """The passes that the recipe asks for, or the target's defaults."""
        from enginery.passes.graph import default_passes, graph_passes
        from enginery.passes.spec import parse_pass

        if self.recipe.graph_passes == "default":
            return default_passes(target)
        registry = graph_passes()
        return tuple(parse_pass(text, registry) for text in self.recipe.graph_passes)

    def optimize(self, target: str, prove: Prove | None = None) -> Result:
        """The graph after the target's passes; `prove` None chooses by the size of the weights."""
        from enginery.passes.spec import format_pass

        passes = self.graph_passes(target)
        exported, reference = self.export, self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.optimize import optimize

            exported.verify()
            shapes = self.shapes
            cases = {shapes.case(name).name: shapes.case(name) for name in PROVED_AT}
            optimize(
                folder,
                model=exported.path(MODEL),
                passes=passes,
                open_model=self.open_model,
                feeds=[shapes.inputs_of(case) for case in cases.values()],
                prove=prove,
            )

        return self.obtain(
            StageName("optimize", target),
            run,
            config={"passes": [format_pass(each) for each in passes], **({"prove": prove} if prove else {})},
            inputs={"model": exported.digest_of("model"), "reference": reference.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, *(type(each).__module__ for each in passes)],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def calibrate(self, target: str) -> Result:
        """The statistics. They depend on the optimized graph, not on the target: equal graphs share them."""
        optimized = self.optimize(target)
        feeds = self.calibration_feeds()
        masks = sorted(set(self.valid.values()))
        stage = StageName("calibrate", target)
        inputs = {"model": optimized.digest_of("model"), **self.data_input("calibration")}

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.calibrate import calibrate

            optimized.verify()
            calibrate(
                folder,
                model=optimized.path(MODEL),
                batches=feeds,
                inputs=self.inputs,
                dims=self.dims,
                masks=masks,
                open_model=self.open_model,
                memory_budget=self.memory_budget,
                random=self.random_data,
                partial=self.store.workdir(f"calibrate-{digest_json(inputs)}"),
                progress=self.progress(stage, "batches"),
            )

        return self.obtain(
            stage,
            run,
            config={**self.signature, "masks": masks, "random": self.random_data},
            inputs=inputs,
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
            from enginery.pipeline.recipe.quantize_options import quantize_options
            from enginery.pipeline.stages.quantize import quantize

            optimized.verify()
            if statistics is not None:
                statistics.verify()
            quantize(
                folder,
                model=optimized.path(MODEL),
                statistics=statistics.path("statistics") if statistics is not None else None,
                policy=get_policy(engine.policy),
                options=quantize_options(precision),
                open_model=self.open_model,
                batches=feeds,
            )

        return self.obtain(
            StageName("quantize", f"{target} {precision.mode}"),
            run,
            config={"precision": precision.model_dump(mode="json"), "policy": engine.policy},
            inputs={
                "model": optimized.digest_of("model"),
                "statistics": statistics.digest if statistics is not None else "none",
                **(self.data_input("calibration") if feeds is not None else {}),
            },
            code=["enginery.pipeline.stages.quantize", "enginery.pipeline.recipe.quantize_options", LITERAL],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "scipy"],
        )

    def halve(self, target: str, precision: Precision) -> Result:
        """The optimized graph with half-precision types in it: such an engine computes in what the graph says."""
        from enginery.passes.graph.precision.half import ConvertToHalf
        from enginery.passes.spec import format_pass

        dtype = "float16" if precision.mode is Mode.FP16 else "bfloat16"
        each = ConvertToHalf(to=dtype, keep=precision.keep_float)
        optimized = self.optimize(target)

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.optimize import optimize

            optimized.verify()
            cases = [self.shapes.case(name) for name in PROVED_AT] if dtype == "float16" else []
            optimize(
                folder,
                model=optimized.path(MODEL),
                passes=[each],
                open_model=self.open_model,
                feeds=[self.shapes.inputs_of(case) for case in cases],
            )

        return self.obtain(
            StageName("optimize", f"{target} {precision.mode}"),
            run,
            config={"passes": [format_pass(each)]},
            inputs={"model": optimized.digest_of("model"), "reference": self.shapes_result.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, type(each).__module__],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def graph(self, target: str, precision: Precision) -> Result:
        """The graph that the engine is built from: optimized, and of the wanted precision.

        Raises:
            UsageError: the target has no engines in that precision.
        """
        if precision.mode is Mode.FP32 or precision.mode.value in self.engine(target).native:
            return self.optimize(target)
        if precision.mode in FLOAT_MODES:
            if target in TYPED_GRAPHS:
                return self.halve(target, precision)
            native = {name for name in targets() if precision.mode.value in get_engine(name).native}
            able = sorted(native | TYPED_GRAPHS)
            raise UsageError(
                f"{target} has no engines in {precision.mode}; targets that have: {', '.join(able) or 'none'}. "
                "Choose one of them, or fp32 or int8."
            )
        return self.quantize(target, precision)

    def engine(self, target: str) -> Engine:
        return get_engine(target)
