"""The middle stages of a line: export, optimize, calibrate, quantize."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from enginery.engines import Engine, get_engine, targets
from enginery.errors import UsageError
from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.line.original import OriginalStages
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    from enginery.engines.base import Feeds
    from enginery.passes.base import GraphPass
    from enginery.passes.graph.precision.half import ConvertToHalf
    from enginery.passes.sequence import Prove

FLOAT_MODES: Final = frozenset({Mode.FP32, Mode.FP16, Mode.BF16})
TYPED_GRAPHS: Final = frozenset({"onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"})
"""Targets that compute in the types that the graph says and have kernels for half precision."""
_DTYPES: Final[dict[str, Literal["float16", "bfloat16"]]] = {Mode.FP16: "float16", Mode.BF16: "bfloat16"}
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
        return self._optimized(StageName("optimize", target), self.graph_passes(target), prove)

    @cached_property
    def canonical(self) -> Result:
        """The graph that is calibrated: what all targets' passes begin with, before any lowering."""
        from enginery.passes.graph import canonical_passes

        if self.recipe.graph_passes != "default":
            return self.optimize(self.recipe.targets[0])
        return self._optimized(StageName("optimize", "canonical"), canonical_passes(), None)

    def _optimized(self, stage: StageName, passes: tuple[GraphPass, ...], prove: Prove | None) -> Result:
        from enginery.passes.spec import format_pass

        exported, reference = self.export, self.shapes_result

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.optimize import optimize

            exported.verify()
            optimize(
                folder,
                model=exported.path(MODEL),
                passes=passes,
                open_model=self.open_model,
                feeds=self.proving_feeds(),
                prove=prove,
            )

        return self.obtain(
            stage,
            run,
            config={"passes": [format_pass(each) for each in passes], **({"prove": prove} if prove else {})},
            inputs={"model": exported.digest_of("model"), "reference": reference.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, *(type(each).__module__ for each in passes)],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def proving_feeds(self) -> list[Feeds]:
        """Inputs at the shapes at which passes are proved."""
        cases = {self.shapes.case(name).name: self.shapes.case(name) for name in PROVED_AT}
        return [self.shapes.inputs_of(case) for case in cases.values()]

    def calibrate(self) -> Result:
        """The statistics of the canonical graph, measured once for all targets."""
        if self.given_statistics is not None:
            return self._given(self.given_statistics)
        index, count = self.part
        canonical, stage = self.canonical, StageName("calibrate", f"part {index}/{count}" if count > 1 else "")
        feeds = self.calibration_share()
        masks, random = sorted(set(self.valid.values())), self.calibration is None
        share = {"part": f"{index}/{count}"} if count > 1 else {}
        inputs = {"model": canonical.digest_of("model"), **self.data_input("calibration"), **share}

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.calibrate import calibrate

            canonical.verify()
            if random:
                self.events.note("calibrating on random data, for a smoke test: no gate passes on these ranges")
            calibrate(
                folder,
                model=canonical.path(MODEL),
                batches=feeds,
                inputs=self.inputs,
                dims=self.dims,
                masks=masks,
                open_model=self.open_model,
                memory_budget=self.memory_budget,
                random=random,
                partial=self.store.workdir(f"calibrate-{digest_json(inputs)}"),
                progress=self.progress(stage, "batches"),
                count=self.calibration_batches,
            )

        return self.obtain(
            stage,
            run,
            config={**self.signature, "masks": masks, "random": random},
            inputs=inputs,
            code=["enginery.pipeline.stages.calibrate", LITERAL],
            tools=["onnxruntime", "numpy", "onnx"],
        )

    def calibrated_on_noise(self, precision: Precision) -> bool:
        """Whether the ranges of an engine in this precision come from random data."""
        if precision.mode not in NEEDS_STATISTICS:
            return False
        return bool(self.calibrate().json("statistics/statistics.json")["random"])

    def _given(self, folder: Path) -> Result:
        """Statistics that the user brings: merged from several workers, or imported from a cache."""
        from enginery.pipeline.stages.calibrate import take_statistics, whole_digest

        canonical = self.canonical

        def run(result: Path) -> None:
            canonical.verify()
            take_statistics(result, statistics=folder, model=canonical.path(MODEL))

        return self.obtain(
            StageName("calibrate", "given"),
            run,
            config={},
            inputs={"model": canonical.digest_of("model"), "statistics": whole_digest(folder)},
            code=["enginery.pipeline.stages.calibrate"],
            tools=["onnx", "numpy"],
        )

    def statistics(self, target: str, precision: Precision) -> Result:
        """The statistics of the target's optimized graph, by name from those of the canonical one."""
        calibrated, canonical, optimized = self.calibrate(), self.canonical, self.optimize(target)
        stage = StageName("bind", target)
        if optimized.digest_of("model") == canonical.digest_of("model"):
            return calibrated
        policy = self.engine(target).policy
        feeds = self.calibration_feeds() if self.has_calibration_data else None

        def run(folder: Path) -> None:
            from enginery.passes.quantize import get_policy
            from enginery.pipeline.recipe.quantize_options import quantize_options
            from enginery.pipeline.stages.bind import bind_statistics

            for each in (calibrated, canonical, optimized):
                each.verify()
            bind_statistics(
                folder,
                statistics=calibrated.path("statistics"),
                calibrated=canonical.path(MODEL),
                model=optimized.path(MODEL),
                policy=get_policy(policy),
                options=quantize_options(precision),
                feeds=self.proving_feeds(),
                batches=feeds,
                open_model=self.open_model,
                memory_budget=self.memory_budget,
                progress=self.progress(stage, "batches"),
            )

        told = stage in self.results
        bound = self.obtain(
            stage,
            run,
            config={"policy": policy, "overrides": [each.model_dump(mode="json") for each in precision.overrides]},
            inputs={
                "statistics": calibrated.digest,
                "canonical": canonical.digest_of("model"),
                "model": optimized.digest_of("model"),
                "reference": self.shapes_result.digest,
                **self.data_input("calibration"),
            },
            code=["enginery.pipeline.stages.bind", "enginery.pipeline.recipe.quantize_options", LITERAL],
            tools=["onnxruntime", "numpy", "onnx", "onnx-graphsurgeon"],
        )
        if not told:
            self._say(target, bound)
        return bound

    def _say(self, target: str, bound: Result) -> None:
        """Tell the listener which tensors a target did not find in the one calibration."""
        record: dict[str, Any] = bound.json("binding.json")
        for found, words in (
            ("measured", "measured on its own graph"),
            ("lacking", "known from nowhere, left in float"),
        ):
            entries: list[dict[str, Any]] = record[found]
            if entries:
                self.events.note(
                    f"{target}: {len(entries)} ranges {words}, beside {record['taken']} of the one calibration; "
                    f"first: {entries[0]['node']}: {entries[0]['reason']}"
                )

    def quantize(self, target: str, precision: Precision) -> Result:
        optimized = self.optimize(target)
        engine = self.engine(target)
        statistics = self.statistics(target, precision) if precision.mode in NEEDS_STATISTICS else None
        feeds = self.calibration_feeds() if statistics is not None and self.has_calibration_data else None

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
            config={"precision": precision.model_dump(mode="json", exclude={"rest"}), "policy": engine.policy},
            inputs={
                "model": optimized.digest_of("model"),
                "statistics": statistics.digest if statistics is not None else "none",
                **(self.data_input("calibration") if feeds is not None else {}),
            },
            code=["enginery.pipeline.stages.quantize", "enginery.pipeline.recipe.quantize_options", LITERAL],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "scipy"],
        )

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

    def beyond_half(self) -> tuple[str, ...]:
        """The tensors that calibration saw beyond what float16 holds, with some room."""
        from enginery.passes.calibration import Statistics
        from enginery.passes.graph.precision.half import FLOAT16_ROOM

        calibrated = self.calibrate()
        calibrated.verify()
        seen = Statistics.load(calibrated.path("statistics")).tensors
        return tuple(sorted(n for n, t in seen.items() if not t.finite or max(-t.low, t.high) > FLOAT16_ROOM))

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

    def engine(self, target: str) -> Engine:
        return get_engine(target)
