"""The training loop.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from enginery.errors import PassError
from enginery.passes.base import ModuleContext
from enginery.passes.module.outputs import Tensors, as_tensors, device_of, run
from enginery.passes.module.training.average import Average, State, snapshot
from enginery.passes.module.training.batches import Pair, count, epoch
from enginery.passes.module.training.checkpoint import Checkpoint, fingerprint
from enginery.passes.module.training.losses import Loss, as_labels, penalty
from enginery.passes.module.training.options import Training, learning_rate

CHECKPOINT_SECONDS = 60.0


@dataclass
class Course:
    """Where a training stands. `seconds` counts training alone, across restarts; `total` sums the epoch's losses."""

    epoch: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    total: float = 0.0
    losses: list[float] = field(default_factory=list[float])
    metrics: list[float] = field(default_factory=list[float])
    best_epoch: int = 0


def train(
    module: torch.nn.Module,
    options: Training,
    context: ModuleContext,
    loss: Loss,
    *,
    name: str,
    on_progress: Callable[[float], None] | None = None,
    extra: torch.nn.Module | None = None,
    facts: object = None,
    settled: float = 0.0,
) -> dict[str, Any]:
    """Train `module` in place and leave it in eval mode; returns JSON-ready figures for the pass's details.

    `on_progress` is called before each step with the progress in [0, 1] (gradual pruning hooks in here). `extra` holds
    further trainable parameters, such as a distillation's projections. `facts` joins the checkpoint's fingerprint.
    `settled` is the progress from which an epoch can be the best one (gradual pruning is not done before).
    On the CPU, the same module, options, data and seed give the same weights, killed and resumed or not, as long as
    `minutes` is not given. A training that ended leaves its result in `context.workdir`: asked for again, it is not
    run again, so that even one bounded by minutes gives the same weights there.

    Raises:
        PassError: the context has no training data, or the loss is not finite.
    """
    options.check(name)
    if context.batches is None:
        raise PassError(f"{name} trains and was given no data; name `data: training:` in the recipe")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        training = _Run(module, options, context, loss, name, on_progress, extra, facts, settled)
        try:
            training.go()
        finally:
            module.eval()
    return training.report()


class _Run:
    def __init__(
        self,
        module: torch.nn.Module,
        options: Training,
        context: ModuleContext,
        loss: Loss,
        name: str,
        on_progress: Callable[[float], None] | None,
        extra: torch.nn.Module | None,
        facts: object,
        settled: float,
    ) -> None:
        self.module, self.options, self.context, self.loss = module, options, context, loss
        self.name, self.on_progress, self.settled = name, on_progress, settled
        # One module, so that one state dict and one optimizer hold everything that is trained.
        self.trained = torch.nn.ModuleList([module] if extra is None else [module, extra])
        self.device = device_of(module)
        self.optimizer = _optimizer(self.trained, options)
        self.checkpoint = Checkpoint(
            context.workdir, name, fingerprint(self.trained, options, context.seed, type(module).__name__, facts)
        )
        self.average = Average(self.trained, options.ema) if options.ema is not None else None
        self.course = Course()
        self.best: State | None = None
        self.per_epoch: int | None = None
        self.reached = "epochs"
        self.ended = False

    def go(self) -> None:
        assert self.context.batches is not None
        if self.options.epochs is not None:
            self.per_epoch = count(self.context.batches, batch=self.options.batch)
        if not self._resume():
            self._evaluate()
        if self.ended:
            return
        while not self._finished():
            self._epoch()
        self._settle()
        self.ended = True
        self._save()

    def _finished(self) -> bool:
        options, course = self.options, self.course
        if options.minutes is not None and course.seconds >= options.minutes * 60:
            self.reached = "minutes"
        elif options.patience is not None and course.epoch - course.best_epoch >= options.patience and course.metrics:
            self.reached = "patience"
        else:
            return options.epochs is not None and course.epoch >= options.epochs
        return True

    def _progress(self) -> float:
        """The larger of the fractions of steps and of minutes."""
        options, course = self.options, self.course
        done = 0.0
        if options.epochs is not None and self.per_epoch is not None:
            done = course.steps / (options.epochs * self.per_epoch)
        if options.minutes is not None:
            done = max(done, course.seconds / (options.minutes * 60))
        return min(done, 1.0)

    def _epoch(self) -> None:
        assert self.context.batches is not None
        course = self.course
        self.trained.train()
        skip = course.step
        begin = saved = time.monotonic()
        seed = self.context.seed + 7919 * (course.epoch + 1)
        for index, pair in enumerate(epoch(self.context.batches, batch=self.options.batch, seed=seed)):
            if index < skip:
                continue
            course.total += self._step(pair)
            now = time.monotonic()
            course.step, course.steps, course.seconds = course.step + 1, course.steps + 1, course.seconds + now - begin
            begin = now
            self._tell()
            if self.options.minutes is not None and course.seconds >= self.options.minutes * 60:
                break
            if now - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        course.losses.append(course.total / max(course.step, 1))
        course.epoch, course.step, course.total = course.epoch + 1, 0, 0.0
        self._evaluate()
        self._save()

    def _step(self, pair: Pair) -> float:
        options, progress = self.options, self._progress()
        if self.on_progress is not None:
            self.on_progress(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, progress)
        inputs: Tensors = as_tensors(pair[0], self.device)
        labels = as_labels(pair[1], self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=options.autocast == "bf16"):
            loss = self.loss(inputs, run(self.module, inputs), labels)
        if options.sparsity != "none":
            loss = loss + penalty(self.module, options)
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            raise PassError(
                f"{self.name}: the loss is {value} at step {self.course.steps + 1}, learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g}; lower lr or set clip"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if options.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), options.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.trained)
        return value

    def _tell(self) -> None:
        if self.context.progress is None:
            return
        steps = None
        if self.options.epochs is not None and self.per_epoch is not None and self.options.minutes is None:
            steps = self.options.epochs * self.per_epoch
        self.context.progress(self.course.steps, steps)

    def _evaluate(self) -> None:
        """Score the module (its average, where there is one) and remember the best state."""
        metric = self.context.metric
        if metric is None or (self.options.keep == "last" and self.options.patience is None):
            return
        if self._progress() < self.settled:
            return
        self.trained.eval()
        if self.average is None:
            score, state = metric(self.module), None
        else:
            with self.average.applied(self.trained):
                score, state = metric(self.module), self.average.state
        course = self.course
        if not course.metrics or score > max(course.metrics):
            course.best_epoch = course.epoch
            if self.options.keep == "best":
                self.best = snapshot(self.trained) if state is None else {k: v.clone() for k, v in state.items()}
        course.metrics.append(float(score))

    def _settle(self) -> None:
        """Put the chosen weights into the module."""
        if self.best is not None:
            self.trained.load_state_dict(self.best)
        elif self.average is not None:
            self.trained.load_state_dict(self.average.state)

    def _save(self) -> None:
        state: dict[str, Any] = {"module": self.trained.state_dict(), "course": asdict(self.course)}
        if self.ended:
            state |= {"ended_by": self.reached, "kept_best": self.best is not None}
        else:
            state |= {
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state,
                "updates": 0 if self.average is None else self.average.updates,
                "best": self.best,
                "random": torch.get_rng_state(),
            }
        self.checkpoint.save(state)

    def _resume(self) -> bool:
        state = self.checkpoint.load()
        if state is None:
            return False
        self.trained.load_state_dict(state["module"])
        self.course = Course(**state["course"])
        if "ended_by" in state:
            self.ended, self.reached = True, state["ended_by"]
            self.best = state["module"] if state["kept_best"] else None
            return True
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.state, self.average.updates = state["average"], state["updates"]
        self.best = state["best"]
        torch.set_rng_state(state["random"])
        return True

    def report(self) -> dict[str, Any]:
        course = self.course
        return {
            "epochs": course.epoch,
            "steps": course.steps,
            "ended_by": self.reached,
            "repeatable": self.options.minutes is None,
            "losses": [round(value, 6) for value in course.losses],
            "metrics": [round(value, 6) for value in course.metrics],
            "kept_epoch": course.best_epoch if self.best is not None else course.epoch,
        }


def _optimizer(module: torch.nn.Module, options: Training) -> torch.optim.Optimizer:
    """The optimizer; weight decay spares biases and normalization, as is the custom."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise PassError("the module has no parameter that requires a gradient; there is nothing to train")
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, lr=options.lr)
    return torch.optim.AdamW(groups, lr=options.lr)
