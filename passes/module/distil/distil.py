"""`distil`: train the module, or a named student, towards a teacher's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult
from enginery.passes.module.training import Training

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Distil(Training):
    """Teacher and student: soft targets, and optionally hidden states and attention maps.

    1. With `student` (`file.py:function`, resolved as the recipe's factory is), the module as it comes is the teacher
       and the student replaces it. Without, the module as it comes (after `drop-layers`, `prune-channels`, ...) is the
       student and the original is the teacher.
    2. The loss is (1 - `alpha`) times the task's loss on the labels plus `alpha` times the soft one: `soft=kl`, the
       divergence of the tempered distributions times `temperature` squared (Hinton et al. 2015); `mse` between all
       outputs; or `cosine` between the first outputs (embeddings). With `alpha=1` no labels are needed.
    3. `hidden=[teacher.layer->student.layer]` adds `hidden_weight` times the mean squared error between the outputs of
       the two modules, through a learned linear projection where their widths differ (Romero et al. 2015; it is
       dropped afterwards). Two other measures need no projection: `match=relation` compares the cosines between all
       pairs of positions (as Wang et al. 2020, "MiniLM", do in attention), `match=energy` where a feature is strong,
       position by position (Zagoruyko and Komodakis 2017, "attention transfer", for images).
    4. `attention=[teacher.layer->student.layer]` names attention modules and adds `attention_weight` times the
       divergence of their attention maps, head by head, or of the heads' mean where the numbers of heads differ.
    5. A `*` on both sides of a pair stands for a layer's number, and `mapping` says which layer of the teacher each
       one of the student learns from: spread evenly (`uniform`), the `last` ones, or the `first` ones.
    6. Training, bounds, best epoch and resuming are those of `recover`.
    7. No teacher, a layer name that does not exist, features that do not fit, or no labels while `alpha` is below 1,
       is an error.
    """

    name: ClassVar[str] = "distil"

    student: str | None = None
    alpha: float = 0.9
    temperature: float = 4.0
    soft: Literal["kl", "mse", "cosine"] = "kl"
    hidden: tuple[str, ...] = ()
    hidden_weight: float = 1.0
    match: Literal["mse", "relation", "energy"] = "mse"
    attention: tuple[str, ...] = ()
    attention_weight: float = 1.0
    mapping: Literal["uniform", "last", "first"] = "uniform"

    def __post_init__(self) -> None:
        self.check(self.name)
        if not 0 < self.alpha <= 1:
            raise UsageError(f"{self.name}: alpha={self.alpha} is out of range; expected above 0, at most 1")
        if not self.temperature > 0:
            raise UsageError(f"{self.name}: temperature={self.temperature} is out of range; expected above 0")
        for option in ("hidden", "attention"):
            if bad := [pair for pair in getattr(self, option) if pair.count("->") != 1]:
                raise UsageError(f"{self.name}: {option} has {bad[0]!r}; expected teacher.layer->student.layer")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        import torch

        from enginery.passes.module.distil.features import Features
        from enginery.passes.module.distil.loss import Terms, distillation_loss
        from enginery.passes.module.distil.mapping import expand
        from enginery.passes.module.distil.maps import Maps
        from enginery.passes.module.training.checkpoint import fingerprint
        from enginery.passes.module.training.loop import train
        from enginery.passes.module.training.losses import task_loss

        teacher, student = self._pair(module, context)
        teacher.eval().requires_grad_(requires_grad=False)
        terms = Terms(self.alpha, self.temperature, self.soft, self.hidden_weight, self.match, self.attention_weight)
        hidden = expand("hidden", self.hidden, teacher, student, self.mapping)
        attention = expand("attention", self.attention, teacher, student, self.mapping)
        with (
            torch.random.fork_rng(devices=[]),
            Features(teacher, student, hidden) as features,
            Maps(teacher, student, attention) as maps,
        ):
            torch.manual_seed(context.seed)
            projections = features.projections(context.example, self.match)
            loss = distillation_loss(terms, task_loss(self, context.resolve), teacher, features, projections, maps)
            details = train(student, self, context, loss, name=self.name, extra=projections, facts=fingerprint(teacher))
        counts = [sum(p.numel() for p in m.parameters()) for m in (teacher, student)]
        details |= {"teacher_parameters": counts[0], "student_parameters": counts[1]}
        details |= {"layers": ["->".join(pair) for pair in (*hidden, *attention)]} if hidden or attention else {}
        changed = 0 if details["kept_epoch"] == 0 and self.student is None else len(list(student.parameters()))
        return student, PassResult(changed=changed, details=details)

    def _pair(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, torch.nn.Module]:
        import torch

        if self.student is None:
            if context.original is None:
                raise PassError("the student is the module itself, and this run was given no original as its teacher")
            return context.original(), module
        if context.resolve is None:
            raise PassError(
                f"student={self.student!r} names a factory, and this run was given nothing to resolve it with"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            student = context.resolve(self.student)()
        if not isinstance(student, torch.nn.Module):
            raise PassError(f"student={self.student!r} returned a {type(student).__name__}; expected an nn.Module")
        return module, student
