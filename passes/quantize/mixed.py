"""Which nodes to keep in float so that a quantized model is good enough, at the least cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from enginery.passes.quantize.sensitivity import Sensitivity

Floating = tuple[str, ...]
"""The nodes that stay in float."""

Accept = Callable[[Floating], bool]
"""Quantizes with these nodes in float and says whether the result is good enough."""

MOST_RETURNS = 6


@dataclass(frozen=True)
class Trial:
    """One mixed-precision model that was tried: its float nodes, what they cost, and whether it was good enough."""

    floating: Floating
    cost: float
    accepted: bool


@dataclass(frozen=True)
class MixedPrecision:
    """Every model that was tried; `accepted` has the good ones, the cheapest first, and is empty when none was."""

    trials: tuple[Trial, ...]

    @property
    def accepted(self) -> tuple[Trial, ...]:
        good = (trial for trial in self.trials if trial.accepted)
        return tuple(sorted(good, key=lambda trial: (trial.cost, len(trial.floating), trial.floating)))


def search_mixed_precision(
    sensitivity: Sensitivity,
    accept: Accept,
    *,
    costs: Mapping[str, float] | None = None,
    most_returns: int = MOST_RETURNS,
) -> MixedPrecision:
    """Look for the float nodes that cost least and make the model good enough.

    1. With no node in float nothing is to be searched; with all of them, nothing can be found.
    2. Nodes go back to float in the order of what leaving each out gains, and in the order of that gain for its cost.
       The number is bisected in each order: log2(n) trials, on the assumption that more float nodes are not worse.
    3. Of the cheapest set that was good enough, up to `most_returns` nodes are tried in integers again, the costliest
       first: an order knows nodes one by one, and what several repair together may be repaired by one of them.

    Args:
        sensitivity: What each node's quantization does.
        accept: Says whether a model is good enough: the accuracy gates, or a task metric's allowed drop.
        costs: What each node costs in float, by name, such as its multiply-accumulates; by default all cost the same.
        most_returns: How many nodes are tried in integers again.
    """
    names = [node.node for node in sensitivity.nodes]
    trials = _Trials(accept, costs or dict.fromkeys(names, 1.0))
    if trials.works(()) or not trials.works(tuple(names)):
        return trials.result()
    for order in _orders(sensitivity, trials.costs):
        _bisect(order, trials)
    _return_nodes(trials, most_returns)
    return trials.result()


class _Trials:
    """Asks about each set once."""

    def __init__(self, accept: Accept, costs: Mapping[str, float]) -> None:
        self.costs = costs
        self._accept = accept
        self._done: dict[frozenset[str], Trial] = {}

    def works(self, floating: Floating) -> bool:
        key = frozenset(floating)
        if key not in self._done:
            cost = sum(self.costs.get(name, 0.0) for name in floating)
            self._done[key] = Trial(floating, cost, self._accept(floating))
        return self._done[key].accepted

    def result(self) -> MixedPrecision:
        return MixedPrecision(tuple(self._done.values()))


def _orders(sensitivity: Sensitivity, costs: Mapping[str, float]) -> list[Floating]:
    by_gain = tuple(node.node for node in sensitivity.nodes)
    worth = {
        node.node: max(node.without - sensitivity.all_quantized, 0.0) / max(costs.get(node.node, 0.0), 1e-9)
        for node in sensitivity.nodes
    }
    return [by_gain, tuple(sorted(by_gain, key=lambda name: -worth[name]))]


def _bisect(order: Sequence[str], trials: _Trials) -> None:
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trials.works(tuple(order[:middle])) else (middle, high)


def _return_nodes(trials: _Trials, most: int) -> None:
    floating = trials.result().accepted[0].floating
    for name in sorted(floating, key=lambda name: -trials.costs.get(name, 0.0))[:most]:
        fewer = tuple(other for other in floating if other != name)
        if fewer and trials.works(fewer):
            floating = fewer
