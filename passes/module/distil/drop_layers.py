"""`drop-layers`: a shallower module, usually the student of a distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DropLayers:
    """Keeps `keep` of the blocks of one `ModuleList` or `Sequential`, in their order.

    1. `path` names the container; without it, the module must have exactly one with three or more blocks of one class.
    2. `choose=even` keeps blocks spread evenly from the first to the last; `first` keeps the first ones; `influence`
       drops the blocks whose output is most like their input (mean cosine over the example; Men et al. 2024,
       "ShortGPT"); `l1`, `l2` and `taylor` drop those whose weights are smallest, or matter least to the loss to first
       order (needs labelled training data), on average over their elements; `random` is seeded.
    3. Nothing is done, with a reason, if the container has no more than `keep` blocks.
    4. A path that does not exist or is no container, or several candidates without a path, is an error that lists
       them. Blocks that do not fit together without the dropped ones fail the check after the pass.
    """

    name: ClassVar[str] = "drop-layers"

    keep: int
    path: str | None = None
    choose: Literal["even", "first", "influence", "l1", "l2", "taylor", "random"] = "even"
    loss: str = "auto"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(f"{self.name}: keep={self.keep} is out of range; expected 1 or more")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        import torch

        path = self._container(module)
        container = module.get_submodule(path)
        blocks = list(container.children())
        if len(blocks) <= self.keep:
            return module, PassResult(refusals=(Refusal(path, f"it has {len(blocks)} blocks, keep={self.keep}"),))
        if self.choose == "first" or (self.choose == "even" and self.keep == 1):
            kept = list(range(self.keep))
        elif self.choose == "even":
            kept = [round(i * (len(blocks) - 1) / (self.keep - 1)) for i in range(self.keep)]
        else:
            scores = self._scores(module, path, blocks, context)
            order = sorted(range(len(blocks)), key=lambda i: (-scores[i], i))
            kept = sorted(order[: self.keep])
        parent, _, child = path.rpartition(".")
        chosen = [blocks[i] for i in kept]
        smaller = (
            torch.nn.ModuleList(chosen) if isinstance(container, torch.nn.ModuleList) else torch.nn.Sequential(*chosen)
        )
        module.get_submodule(parent).register_module(child, smaller)
        details = {"container": path, "kept": kept, "of": len(blocks)}
        return module, PassResult(changed=len(blocks) - len(kept), details=details)

    def _scores(
        self, module: torch.nn.Module, path: str, blocks: list[torch.nn.Module], context: ModuleContext
    ) -> list[float]:
        """How much each block matters."""
        import torch

        from enginery.passes.module.prune.gradients import gradients, taylor
        from enginery.passes.module.training.losses import task_loss
        from enginery.passes.module.training.options import Training

        if self.choose == "influence":
            return _influence(module, path, blocks, context)
        if self.choose == "random":
            return torch.rand(len(blocks), generator=torch.Generator().manual_seed(context.seed)).tolist()
        if self.choose == "taylor":
            gradients(module, context, task_loss(Training(loss=self.loss), context.resolve))
        measures = {"l1": torch.abs, "l2": torch.square, "taylor": taylor}
        scores = [
            float(torch.cat([measures[self.choose](p).detach().flatten() for p in block.parameters()]).mean())
            for block in blocks
        ]
        module.zero_grad(set_to_none=True)
        return scores

    def _container(self, module: torch.nn.Module) -> str:
        import torch

        kinds = (torch.nn.ModuleList, torch.nn.Sequential)
        containers = {name: m for name, m in module.named_modules() if type(m) in kinds and name}
        if self.path is not None:
            if self.path not in containers:
                raise PassError(
                    f"path={self.path!r} is no ModuleList or Sequential; available: {', '.join(containers) or 'none'}"
                )
            return self.path
        blocks = {name: [type(block) for block in m.children()] for name, m in containers.items()}
        uniform = [name for name, kinds in blocks.items() if len(kinds) > 2 and len(set(kinds)) == 1]
        if len(uniform) != 1:
            raise PassError(
                f"{len(uniform)} containers of three or more equal blocks were found ({', '.join(uniform) or 'none'}); "
                "name one with path="
            )
        return uniform[0]


def _influence(
    module: torch.nn.Module, path: str, blocks: list[torch.nn.Module], context: ModuleContext
) -> list[float]:
    """1 - the mean cosine between what each block reads and what it gives, on the example."""
    import torch

    from enginery.passes.module.outputs import infer

    found = [0.0] * len(blocks)

    def recorder(index: int):  # noqa: ANN202  # the hook's type is torch's own
        def record(_block: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
            given = output[0] if isinstance(output, tuple) else output
            if not isinstance(given, torch.Tensor) or not args or given.shape != args[0].shape:
                raise PassError(
                    f"{path}.{index}: choose=influence compares a block's output with its input; shapes differ"
                )
            cosine = torch.nn.functional.cosine_similarity(args[0].flatten(1), given.flatten(1), dim=1)
            found[index] = 1 - float(cosine.mean())

        return record

    handles = [block.register_forward_hook(recorder(index)) for index, block in enumerate(blocks)]
    try:
        infer(module, context.example)
    finally:
        for handle in handles:
            handle.remove()
    return found
