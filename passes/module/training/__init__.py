"""The one training loop that recovery, gradual pruning and distillation share. Plain torch, no framework."""

from __future__ import annotations

from enginery.passes.module.training.options import Training

__all__ = ["Training"]
