"""The stages of a line that make its float graphs: export, then the passes of each target."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from enginery.engines import Engine, get_engine
from enginery.pipeline.events import StageName
from enginery.pipeline.line.original import OriginalStages
from enginery.pipeline.line.wiring import LITERAL
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enginery.engines.base import Feeds
    from enginery.passes.base import GraphPass
    from enginery.passes.sequence import Prove

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
                    example=self.shapes.inputs_of(self.shapes.case(export.TRACED)),
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
        from enginery.pipeline.source.passes import read_graph_passes

        return read_graph_passes(self._listed, target, self.loaded.folder)

    @property
    def _listed(self) -> tuple[str, ...]:
        listed = self.recipe.graph_passes
        return (listed,) if isinstance(listed, str) else listed

    def optimize(self, target: str, prove: Prove | None = None) -> Result:
        """The graph after the target's passes; `prove` None chooses by the size of the weights."""
        from enginery.pipeline.source.passes import pass_code

        own = pass_code(self._listed, self.loaded.folder)
        return self._optimized(StageName("optimize", target), self.graph_passes(target), prove, own)

    @cached_property
    def canonical(self) -> Result:
        """The graph that is calibrated: what all targets' passes begin with, before any lowering."""
        from enginery.passes.graph import canonical_passes

        if self.recipe.graph_passes != "default":
            return self.optimize(self.recipe.targets[0])
        return self._optimized(StageName("optimize", "canonical"), canonical_passes(), None)

    def _optimized(
        self, stage: StageName, passes: tuple[GraphPass, ...], prove: Prove | None, own: Mapping[str, Any] | None = None
    ) -> Result:
        from enginery.passes.spec import format_pass
        from enginery.pipeline.source.passes import modules_of

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
            config={
                "passes": [format_pass(each) for each in passes],
                **({"prove": prove} if prove else {}),
                **({"own": own} if own else {}),
            },
            inputs={"model": exported.digest_of("model"), "reference": reference.digest},
            code=["enginery.pipeline.stages.optimize", LITERAL, *modules_of(passes)],
            tools=["onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"],
        )

    def proving_feeds(self) -> list[Feeds]:
        """Inputs at the shapes at which passes are proved."""
        cases = {self.shapes.case(name).name: self.shapes.case(name) for name in PROVED_AT}
        return [self.shapes.inputs_of(case) for case in cases.values()]

    def engine(self, target: str) -> Engine:
        return get_engine(target)
