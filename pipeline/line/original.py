"""The first stages of a line: load and compress, and the reference answers that everything is compared with.

The *subject* is what is exported: the original itself, or what the recipe's module passes made of it. Engines are
compared with the subject number by number; what the passes cost is judged by the task metric, against the original.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.engines import Session, TensorSpec
from enginery.pipeline.comparison.reference import EvaluationReference, ShapesReference, spec_to_json
from enginery.pipeline.events import StageName
from enginery.pipeline.files import digest_json
from enginery.pipeline.line.data import DataAccess
from enginery.pipeline.source.opened import LazyOriginal, discover_outputs, module_session
from enginery.pipeline.store import Result

if TYPE_CHECKING:
    import torch

    from enginery.passes.base import ModulePass
    from enginery.pipeline.data import DataSet
    from enginery.pipeline.stages.compress import Compression

_CODE = ("enginery.pipeline.stages.reference", "enginery.pipeline.source.opened", "enginery.engines.pytorch")


class OriginalStages(DataAccess):
    @cached_property
    def original(self) -> LazyOriginal:
        source, folder, seed = self.recipe.source, self.loaded.folder, self.recipe.seed
        return LazyOriginal(source, folder, self.inputs, seed=seed, trust=self.trust)

    @cached_property
    def source_digest(self) -> str:
        from enginery.pipeline.source import source_digest

        return source_digest(self.recipe.source, self.loaded.folder)

    @cached_property
    def load(self) -> Result:
        def run(folder: Path) -> None:
            from enginery.pipeline.stages.load import load

            load(folder, original=self.original.get())

        return self.obtain(
            StageName("load"),
            run,
            config={"seed": self.recipe.seed, "inputs": [spec.name for spec in self.inputs]},
            inputs={"source": self.source_digest},
            code=["enginery.pipeline.stages.load", "enginery.pipeline.source.load"],
            tools=self.source_tools,
        )

    @property
    def source_tools(self) -> list[str]:
        kind = self.recipe.source.kind
        extra = {"hf": ["transformers"], "timm": ["timm"]}.get(kind, [])
        return ["onnxruntime", "numpy"] if kind == "onnx" else ["torch", "numpy", *extra]

    # Compression.

    @cached_property
    def module_passes(self) -> tuple[ModulePass, ...]:
        if not self.recipe.module_passes:
            return ()
        from enginery.passes.module import module_passes
        from enginery.pipeline.source.passes import read_pass

        registry = module_passes()
        return tuple(read_pass(text, registry, self.loaded.folder) for text in self.recipe.module_passes)

    @cached_property
    def compress(self) -> Result | None:
        """What the module passes did, or None where the recipe names none."""
        from enginery.pipeline.source.passes import modules_of

        if not self.module_passes:
            return None

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.compress import write_compressed

            self.compressed = self._compressed_and_timed()
            write_compressed(folder, self.compressed)

        config, inputs = self._compress_facts
        return self.obtain(
            StageName("compress"),
            run,
            config=config,
            inputs=inputs,
            code=["enginery.pipeline.stages.compress", "enginery.passes.module.sequence",
                  *modules_of(self.module_passes)],
            tools=[*self.source_tools, "torch-pruning"],
        )  # fmt: skip

    @cached_property
    def _compress_facts(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Configuration and inputs of compression: all that decides the weights but our own code and the tools."""
        from enginery.passes.spec import format_pass
        from enginery.pipeline.source.passes import pass_code
        from enginery.pipeline.stages.compress import callables_of

        own = pass_code(self.recipe.module_passes, self.loaded.folder)
        config = {
            "passes": [format_pass(one) for one in self.module_passes],
            "callables": callables_of(self.module_passes, self.loaded.folder) | own,
            "seed": self.recipe.seed,
            "metric": self.metric_config,
        }
        inputs = {
            "source": self.source_digest,
            "load": self.load.digest,
            **self.data_input("training"),
            **self.data_input("evaluation"),
        }
        return config, inputs

    @cached_property
    def compressed(self) -> Any:
        """The compressed module, made anew in each process that needs it: structure is code, which no file holds."""
        from enginery.pipeline.stages.compress import compress

        return compress(self.compression, self.module_passes)

    def _compressed_and_timed(self) -> Any:
        """The same, with the latency of the engine after each pass, unless no time is to be spent on measuring."""
        from enginery.pipeline.line.trials import cannot_time, engine_trials
        from enginery.pipeline.stages.compress import compress

        original = self.original.fresh()
        if original is None or not self.benchmark_seconds or cannot_time(self.recipe.targets[0]):
            return compress(self.compression, self.module_passes)
        with engine_trials(self, original, self.example()) as trials:
            return compress(self.compression, self.module_passes, trials.latency)

    @property
    def compression(self) -> Compression:
        """What this recipe gives its module passes."""
        from enginery.pipeline.stages.compress import Compression

        return Compression(
            original=self.original,
            example=self.example(),
            training=self.training.batches if self.training is not None else None,
            evaluation=self.evaluation.batches if self.evaluation is not None else None,
            score=self.score(),
            scored=self.recipe.metric.output if self.recipe.metric is not None else None,
            higher_is_better=self.recipe.metric.higher_is_better if self.recipe.metric is not None else True,
            outputs=self.declared,
            inputs=self.inputs,
            folder=self.loaded.folder,
            # Passes remember trainings by weights and options; that data and code are the same is said here.
            workdir=self.store.workdir(f"compress-{digest_json(self._compress_facts)}"),
            seed=self.recipe.seed,
            progress=self.progress(StageName("compress"), "steps"),
        )

    def subject(self) -> torch.nn.Module | None:
        """The module that is exported, or None for an ONNX source.

        Raises:
            SourceError: it has other weights than the stored results were made from.
        """
        self.original.check_digest(self.load.json("original.json")["weights_digest"])
        if self.compress is None:
            return self.original.get().module
        self.compressed.check(self.compress.json("compress.json")["weights_digest"])
        return self.compressed.module

    # The reference answers.

    @property
    def subject_inputs(self) -> dict[str, str]:
        """What identifies the subject in keys. Its weights are in the results' digests, its code in the source's."""
        inputs = {"source": self.source_digest, "load": self.load.digest}
        return inputs if self.compress is None else {**inputs, "compress": self.compress.digest}

    @cached_property
    def shapes_result(self) -> Result:
        stage = StageName("reference", "shapes")
        inputs = {**self.subject_inputs, **self.data_input("evaluation")}

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.reference import reference_shapes

            reference_shapes(
                folder,
                run=self.subject_session().run,
                inputs=self.inputs,
                dims=self.dims,
                shapes=self.recipe.shapes,
                declared=self.declared,
                batches=self.evaluation.batches if self.evaluation is not None else None,
                seed=self.recipe.seed,
                progress=self.progress(stage, "shapes"),
            )

        config = {**self.signature, "shapes": list(self.recipe.shapes), "seed": self.recipe.seed}
        return self.obtain(stage, run, config=config, inputs=inputs, code=_CODE, tools=self.source_tools)

    @property
    def shapes(self) -> ShapesReference:
        return ShapesReference.open(self.shapes_result.folder)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as the recipe declares them, or as they were seen."""
        return self.shapes.outputs

    @cached_property
    def evaluation_result(self) -> Result | None:
        """The subject's answers on the evaluation data, or None where the recipe names none."""
        if self.evaluation is None:
            return None
        return self._answers("evaluation", self.evaluation, self.subject_inputs, compressed=True)

    @cached_property
    def scored_result(self) -> Result | None:
        """The original's answers, for the task metric. Without module passes they are the subject's."""
        if self.evaluation is None or self.compress is None:
            return self.evaluation_result
        inputs = {"source": self.source_digest, "load": self.load.digest}
        return self._answers("original", self.evaluation, inputs, compressed=False)

    def _answers(self, label: str, data: DataSet, inputs: dict[str, str], *, compressed: bool) -> Result:
        stage = StageName("reference", label)

        def run(folder: Path) -> None:
            from enginery.pipeline.stages.reference import reference_evaluation

            session = self.subject_session() if compressed else self.original.session(self.outputs)
            reference_evaluation(
                folder, run=session.run, batches=data.batches, progress=self.progress(stage, "batches")
            )

        config = {**self.signature, "outputs": [spec_to_json(spec) for spec in self.outputs]}
        inputs = {**inputs, **self.data_input("evaluation")}
        return self.obtain(stage, run, config=config, inputs=inputs, code=_CODE, tools=self.source_tools)

    @staticmethod
    def open_answers(result: Result | None) -> EvaluationReference | None:
        return EvaluationReference.open(result.folder) if result is not None else None

    def subject_session(self) -> Session:
        """The subject, with the names of its outputs: declared, discovered, or those of the shapes reference."""
        module = self.subject()
        if module is None:
            return self.original.session(self.declared)
        if self.declared or "shapes_result" in self.__dict__:
            return module_session(module, self.inputs, self.declared or self.outputs)
        names = discover_outputs(module, self.example())
        return module_session(module, self.inputs, tuple(TensorSpec(name, "float32", ()) for name in names))

    def timed_original(self) -> Session | None:
        """The original in PyTorch, to be timed; an ONNX file has no framework of its own to run in."""
        return None if self.recipe.source.kind == "onnx" else self.original.session(self.outputs)

    def example(self) -> dict[str, Any]:
        """One batch of real inputs at the optimal sizes, or of noise where the recipe names no data."""
        from enginery.pipeline.comparison.shapes import fit, random_inputs

        sizes = {name: dim.opt for name, dim in self.dims.items()}
        for batch in self.evaluation.batches() if self.evaluation is not None else ():
            return fit(batch.inputs, self.inputs, sizes)
        return random_inputs(self.inputs, sizes, self.recipe.seed)
