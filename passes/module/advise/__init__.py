"""Advice: what compressing each layer would cost and save, and a list of passes for a stated budget."""

from __future__ import annotations

from enginery.passes.module.advise.advice import Advice, Budget, Effect, Proposal, Trials, Untried
from enginery.passes.module.advise.advise import advise

__all__ = ["Advice", "Budget", "Effect", "Proposal", "Trials", "Untried", "advise"]
