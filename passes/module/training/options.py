"""The options of every pass that trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginery.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, with what and on which loss.

    `epochs` and `minutes` bound the training; with both, the first that is reached ends it. Only a training bounded by
    epochs alone repeats bit for bit: with minutes, the machine's speed decides the number of steps.
    `batch` regroups the samples (None: batches as the data gives them). `warmup` and `final` are fractions: of the
    training's length, and of `lr`. `loss` is `auto` (cross-entropy for integer labels, mean squared error for real
    ones), `cross-entropy`, `mse`, or `file.py:function` called with (outputs by name, labels).
    `sparsity` adds `strength` times the L1 norm, half the squared L2 norm, or the group lasso (the L2 norm of each
    output channel times the square root of its size) of all weights with two or more dimensions.
    `keep` picks the weights after the best epoch by the recipe's metric (the start counts as epoch 0) or the last ones;
    `patience` ends the training after so many epochs without a better metric.
    """

    epochs: int | None = None
    minutes: float | None = None
    batch: int | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "cosine"
    warmup: float = 0.0
    final: float = 0.01
    clip: float | None = None
    ema: float | None = None
    autocast: Literal["off", "bf16"] = "off"
    loss: str = "auto"
    label_smoothing: float = 0.0
    sparsity: Literal["none", "l1", "l2", "group-lasso"] = "none"
    strength: float = 1e-5
    keep: Literal["best", "last"] = "best"
    patience: int | None = None

    def bounded(self) -> bool:
        return self.epochs is not None or self.minutes is not None

    def check(self, name: str) -> None:
        """Raise UsageError where the training has no bound or an option is outside its range."""
        if not self.bounded():
            raise UsageError(f"{name}: a training needs a bound; give epochs or minutes, such as {name}{{epochs=3}}")
        ranges = {
            "epochs": self.epochs is None or self.epochs >= 1,
            "minutes": self.minutes is None or self.minutes > 0,
            "batch": self.batch is None or self.batch >= 1,
            "lr": self.lr > 0,
            "warmup": 0 <= self.warmup < 1,
            "final": 0 < self.final <= 1,
            "clip": self.clip is None or self.clip > 0,
            "ema": self.ema is None or 0 < self.ema < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "strength": self.strength >= 0,
            "patience": self.patience is None or self.patience >= 1,
        }
        for option, holds in ranges.items():
            if not holds:
                raise UsageError(f"{name}: {option}={getattr(self, option)} is out of range")


def learning_rate(options: Training, progress: float) -> float:
    """The learning rate at `progress` in [0, 1]: a linear warm-up, then the schedule from `lr` to `lr * final`."""
    import math

    if progress < options.warmup:
        return options.lr * max(progress / options.warmup, options.final)
    t = (progress - options.warmup) / (1 - options.warmup)
    fraction = {
        "constant": 1.0,
        "linear": 1 - (1 - options.final) * t,
        "cosine": options.final + (1 - options.final) * (1 + math.cos(math.pi * t)) / 2,
        "exponential": options.final**t,
    }[options.schedule]
    return options.lr * fraction
