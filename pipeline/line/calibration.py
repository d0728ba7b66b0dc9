"""The stages of a line that measure ranges: one calibration for all targets, and what each target takes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.line.graph import MODEL, GraphStages
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.recipe import Mode, Precision
from enginery.pipeline.store import Result

NEEDS_STATISTICS: Final = frozenset({Mode.INT8})


class CalibrationStages(GraphStages):
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
                partial=self.store.workdir(f"calibrate-{digest_json({'inputs': inputs, 'masks': masks})}"),
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

    def beyond_half(self) -> tuple[str, ...]:
        """The tensors that calibration saw beyond what float16 holds, with some room."""
        from enginery.passes.calibration import Statistics
        from enginery.passes.graph.precision.half import FLOAT16_ROOM

        calibrated = self.calibrate()
        calibrated.verify()
        seen = Statistics.load(calibrated.path("statistics")).tensors
        return tuple(sorted(n for n, t in seen.items() if not t.finite or max(-t.low, t.high) > FLOAT16_ROOM))
