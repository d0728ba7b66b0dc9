"""What a recipe says about quantization."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from enginery.errors import UsageError
from enginery.passes.quantize.policy import Policy

Mode = Literal["int8", "int8-dynamic", "int8-weight", "int4-weight"]


def pattern_of(name: str) -> str:
    """The regular expression of exactly this name, as one would write it: `re.escape` escapes blanks and dashes too."""
    return re.sub(r"[^\w />:-]", r"\\\g<0>", name)


@dataclass(frozen=True)
class NodeOverride:
    """An exception to the policy. `nodes` names a node, its module or its weight, by name or regular expression."""

    nodes: str
    quantize: bool | None = None
    symmetric: bool | None = None
    per_channel: bool | None = None
    output: bool | None = None

    def matches(self, *names: str) -> bool:
        return any(name and (self.nodes == name or re.fullmatch(self.nodes, name)) for name in names)


@dataclass(frozen=True)
class QuantizeOptions:
    """Mirrors `precision` of the recipe.

    Attributes:
        mode: Static int8 (needs statistics), dynamic int8, or weight-only int8 or int4.
        observer: How ranges are read from the statistics.
        percentile: For the `percentile` observer.
        passes: Remedies in order, as text such as `smooth{alpha=0.8}`; `default` lets measurement choose.
        overrides: Exceptions by node; a later one wins.
        keep_float: Regular expressions of nodes left in float.
        block_size: Elements per scale of weight-only int4.
    """

    mode: Mode = "int8"
    observer: str = "minmax"
    percentile: float = 99.99
    passes: tuple[str, ...] | Literal["default"] = "default"
    overrides: tuple[NodeOverride, ...] = ()
    keep_float: tuple[str, ...] = ()
    block_size: int = 32

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"{pattern!r} is no regular expression ({error}). Escape special characters."
                ) from error

    def keeping_float(self, *patterns: str) -> QuantizeOptions:
        """The same with more nodes left in float."""
        return replace(self, keep_float=(*self.keep_float, *patterns))

    @property
    def patterns(self) -> tuple[str, ...]:
        """What nodes are called in `keep_float` and in `overrides`, each once."""
        return tuple(dict.fromkeys((*self.keep_float, *(override.nodes for override in self.overrides))))

    def for_node(self, *names: str) -> NodeOverride:
        """All overrides that concern a node, as one."""
        merged = NodeOverride(nodes=names[0])
        for override in self.overrides:
            if override.matches(*names):
                given = {key: value for key, value in vars(override).items() if value is not None and key != "nodes"}
                merged = replace(merged, **given)
        if any(NodeOverride(pattern).matches(*names) for pattern in self.keep_float):
            merged = replace(merged, quantize=False)
        return merged


@dataclass(frozen=True)
class NodeChoice:
    """What policy and overrides say about one node together."""

    quantize: bool
    symmetric: bool
    per_channel: bool
    output: bool


def choose(policy: Policy, op: str, override: NodeOverride) -> NodeChoice:
    """The policy's rule for operator `op`, with the node's overrides applied."""
    rule = policy.compute.get(op)

    def pick(given: bool | None, default: bool) -> bool:  # noqa: FBT001
        return default if given is None else given

    return NodeChoice(
        quantize=pick(override.quantize, rule is not None),
        symmetric=pick(override.symmetric, policy.symmetric),
        per_channel=pick(override.per_channel, policy.per_channel),
        output=pick(override.output, rule is not None and rule.output),
    )
