"""The passes that there are, described by their own classes: name, options, and the contract in the docstring."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enginery.errors import UsageError
from enginery.passes.spec import format_pass, type_name, value_text

Kind = Literal["module", "graph", "quantize"]


@dataclass(frozen=True)
class Shared:
    """Options that a pass has from a base class, such as those of every training, and what that class says of them."""

    title: str
    contract: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class PassInfo:
    """A pass as a user sees it. `contract` is what it promises, by cases.

    `options` are `{name: default as text}`, without a default the empty text; `values` are `{name: what it may be}`.
    """

    kind: Kind
    name: str
    summary: str
    contract: str
    options: Mapping[str, str]
    values: Mapping[str, str]
    shared: tuple[Shared, ...]


def catalogue() -> tuple[PassInfo, ...]:
    """Every pass: those on modules, on graphs, and the remedies of quantization."""
    return tuple(_describe(kind, name, cls) for kind, registry in _registries() for name, cls in registry.items())


def find_pass(name: str) -> PassInfo:
    """Find a pass by its name.

    Raises:
        UsageError: there is none of that name.
    """
    found = {info.name: info for info in catalogue()}
    if name not in found:
        raise UsageError(f"There is no pass {name!r}. `enginery passes` lists all {len(found)}.")
    return found[name]


def default_specs(target: str) -> tuple[str, ...]:
    """The graph passes that a recipe's `graph_passes: default` means for `target`, in order."""
    from enginery.engines import get_engine
    from enginery.passes.graph import default_passes

    return tuple(format_pass(each) for each in default_passes(get_engine(target).target))


def _registries() -> Iterator[tuple[Kind, Mapping[str, type[Any]]]]:
    from enginery.passes.graph import graph_passes
    from enginery.passes.module import module_passes
    from enginery.passes.quantize.remedies import remedies

    yield "module", module_passes()
    yield "graph", graph_passes()
    yield "quantize", remedies()


def _describe(kind: Kind, name: str, cls: type[Any]) -> PassInfo:
    contract = inspect.cleandoc(cls.__doc__ or "")
    hints = typing.get_type_hints(cls)
    options = dict(_options(cls))
    values = {option: type_name(hints[option]) for option in options}
    return PassInfo(kind, name, contract.partition("\n")[0], contract, options, values, tuple(_shared(cls)))


def _options(cls: type[Any]) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        yield field.name, "" if default is dataclasses.MISSING else value_text(default)


def _shared(cls: type[Any]) -> Iterator[Shared]:
    for base in cls.__mro__[1:]:
        if dataclasses.is_dataclass(base) and (names := tuple(name for name, _ in _options(base))):
            yield Shared(base.__name__, inspect.cleandoc(base.__doc__ or ""), names)
