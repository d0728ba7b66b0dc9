"""The stages of a line that give a target's graph its precision: integers, half floats, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from enginery.engines import get_engine, targets
from enginery.errors import UsageError
from enginery.pipeline.events import StageName
from enginery.pipeline.line.calibration import NEEDS_STATISTICS, CalibrationStages
from enginery.pipeline.line.graph import MODEL, PROVED_AT
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    from enginery.passes.graph.precision.half import ConvertToHalf

FLOAT_MODES: Final = frozenset({Mode.FP32, Mode.FP16, Mode.BF16})
TYPED_GRAPHS: Final = frozenset({"onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"})
"""Targets that compute in the types that the graph says and have kernels for half precision."""
_DTYPES: Final[dict[str, Literal["float16", "bfloat16"]]] = {Mode.FP16: "float16", Mode.BF16: "bfloat16"}


class PrecisionStages(CalibrationStages):
    def quantize(self, target: str, precision: Precision) -> Result:
        from enginery.passes.quantize.quantize import UNMATCHED
        from enginery.passes.quantize.remedies import named_remedies
        from enginery.pipeline.recipe.quantize_options import quantize_options

        options = quantize_options(precision)
        named_remedies(options)  # a fault of the recipe is said before anything is done for its sake
        optimized = self.optimize(target)
        engine = self.engine(target)
        statistics = self.statistics(target, precision) if precision.mode in NEEDS_STATISTICS else None
        feeds = self.calibration_feeds() if statistics is not None and self.has_calibration_data else None

        def run(folder: Path) -> None:
            from enginery.passes.quantize import get_policy
            from enginery.pipeline.stages.quantize import quantize

            optimized.verify()
            if statistics is not None:
                statistics.verify()
            quantize(
                folder,
                model=optimized.path(MODEL),
                statistics=statistics.path("statistics") if statistics is not None else None,
                policy=get_policy(engine.policy),
                options=options,
                open_model=self.open_model,
                batches=feeds,
            )

        stage = StageName("quantize", f"{target} {precision.mode}")
        told = stage in self.results
        result = self.obtain(
            stage,
            run,
            config={"precision": precision.model_dump(mode="json", exclude={"rest"}), "policy": engine.policy},
            inputs={
                "model": optimized.digest_of("model"),
                "statistics": statistics.digest if statistics is not None else "none",
                **(self.data_input("calibration") if feeds is not None else {}),
            },
            code=["enginery.pipeline.stages.quantize", "enginery.pipeline.recipe.quantize_options", LITERAL],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "scipy"],
        )
        for refusal in result.json("quantize.json")["refusals"]:
            if refusal["reason"] == UNMATCHED and not told:
                self.events.note(f"{target}: {refusal['node']!r} is {UNMATCHED}")
        return result

    def sensitivity(self, target: str, precision: Precision) -> Result:
        """What each node's static quantization does to the outputs, without remedies."""
        optimized, statistics = self.optimize(target), self.statistics(target, precision)
        policy, feeds = self.engine(target).policy, self.calibration_feeds()
        stage = StageName("sensitivity", target)

        def run(folder: Path) -> None:
            from enginery.passes.quantize import get_policy
            from enginery.pipeline.recipe.quantize_options import quantize_options
            from enginery.pipeline.stages.sensitivity import sensitivity

            optimized.verify()
            statistics.verify()
            sensitivity(
                folder,
                model=optimized.path(MODEL),
                statistics=statistics.path("statistics"),
                policy=get_policy(policy),
                options=quantize_options(precision),
                open_model=self.open_model,
                batches=feeds,
                progress=self.progress(stage, "nodes"),
            )

        return self.obtain(
            stage,
            run,
            config={
                "precision": precision.model_dump(mode="json", exclude={"passes", "block_size", "rest"}),
                "policy": policy,
            },
            inputs={
                "model": optimized.digest_of("model"),
                "statistics": statistics.digest,
                **self.data_input("calibration"),
            },
            code=["enginery.pipeline.stages.sensitivity", "enginery.pipeline.recipe.quantize_options", LITERAL],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def halve(self, target: str, precision: Precision) -> Result:
        """The optimized graph with half-precision types in it: such an engine computes in what the graph says."""
        from enginery.passes.graph.precision.half import ConvertToHalf

        large = self.beyond_half() if precision.mode is Mode.FP16 and self.has_calibration_data else ()
        each = ConvertToHalf(to=_DTYPES[precision.mode], keep=precision.keep_float, large=large)
        return self._halved(StageName("optimize", f"{target} {precision.mode}"), self.optimize(target), each)

    def halve_rest(self, target: str, precision: Precision) -> Result:
        """The quantized graph with half-precision types wherever it is not integer, pairs included.

        Rounding to integers makes differences of one step out of the least ones, so that the gates compare.
        """
        from enginery.passes.graph.precision.half import ConvertToHalf

        large = self.beyond_half() if precision.rest == Mode.FP16 and self.has_calibration_data else ()
        each = ConvertToHalf(to=_DTYPES[precision.rest], large=large, pairs=True)
        stage = StageName("optimize", f"{target} {precision.mode} {precision.rest}")
        return self._halved(stage, self.quantize(target, precision), each, prove=False)

    def _halved(self, stage: StageName, graph: Result, each: ConvertToHalf, *, prove: bool = True) -> Result:
        from enginery.passes.spec import format_pass

        cases = [self.shapes.case(name) for name in PROVED_AT] if prove and each.to == "float16" else []

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.optimize import optimize

            graph.verify()
            optimize(
                folder,
                model=graph.path(MODEL),
                passes=[each],
                open_model=self.open_model,
                feeds=[self.shapes.inputs_of(case) for case in cases],
            )

        return self.obtain(
            stage,
            run,
            config={"passes": [format_pass(each)]},
            inputs={"model": graph.digest_of("model"), "reference": self.shapes_result.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, type(each).__module__],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def graph(self, target: str, precision: Precision) -> Result:
        """The graph that the engine is built from: optimized, and of the wanted precision.

        Raises:
            UsageError: the target has no engines in that precision.
        """
        wanted = precision.mode.value if precision.mode in FLOAT_MODES else precision.rest
        able = wanted == Mode.FP32 or wanted in self.engine(target).native
        if not able and target not in TYPED_GRAPHS:
            native = {name for name in targets() if wanted in get_engine(name).native}
            have = ", ".join(sorted(native | TYPED_GRAPHS)) or "none"
            what = wanted if precision.mode in FLOAT_MODES else f"{precision.mode} with a rest in {wanted}"
            raise UsageError(
                f"{target} has no engines in {what}; targets that have: {have}. Choose one of them, or fp32 or int8."
            )
        if precision.mode in FLOAT_MODES:
            return self.optimize(target) if able else self.halve(target, precision)
        return self.quantize(target, precision) if able else self.halve_rest(target, precision)
