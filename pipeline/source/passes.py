"""Passes as recipes name them: by a registered name, or as `file.py:Class`, a pass of the user's own.

Both take options in braces. In a list of graph passes, `default` stands for the target's own list.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from enginery.errors import PassError, UsageError
from enginery.passes.base import GraphPass
from enginery.passes.spec import parse_pass
from enginery.pipeline.source.callables import Reference, import_callable
from enginery.pipeline.source.digest import code_facts

P = TypeVar("P")

_OWN = re.compile(r"(?P<reference>[^{}]+:[A-Za-z_]\w*)\s*(?P<options>\{.*\})?", re.DOTALL)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
DEFAULT = "default"


def read_pass(text: str, registry: Mapping[str, type[P]], folder: Path) -> P:
    """The pass that `text` describes; a class of the user's own is imported, its file relative to `folder`.

    Raises:
        UsageError: there is no such pass, it is none, or an option is unknown or of another type.
        PassError: the user's file raised while it was imported.
    """
    own = _OWN.fullmatch(text.strip())
    if own is None:
        return parse_pass(text, registry)
    kind: Any = import_callable(Reference.parse(own["reference"], folder), PassError)
    name = getattr(kind, "name", None)
    whole = isinstance(kind, type) and dataclasses.is_dataclass(kind) and callable(getattr(kind, "apply", None))
    if not whole or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{own['reference']!r} is no pass; expected a frozen dataclass with a `name` such as `merge-clips`, and "
            "`apply`."
        )
    return parse_pass(f"{name}{own['options'] or ''}", {name: cast("type[P]", kind)})


def read_graph_passes(texts: Iterable[str], target: str, folder: Path) -> tuple[GraphPass, ...]:
    """The graph passes of a list, in order.

    Raises:
        UsageError, PassError: as for `read_pass`.
    """
    from enginery.passes.graph import default_passes, graph_passes

    registry = graph_passes()
    found: list[GraphPass] = []
    for text in texts:
        found += default_passes(target) if text.strip() == DEFAULT else (read_pass(text, registry, folder),)
    return tuple(found)


def modules_of(passes: Iterable[object]) -> list[str]:
    """Our own modules that hold these passes; what the user's rest on, `pass_code` says."""
    return [name for each in passes if (name := type(each).__module__).startswith("enginery.")]


def pass_code(texts: Iterable[str], folder: Path) -> dict[str, Any]:
    """What the user's own passes among `texts` rest on, by file and class, for the key of a stage that runs them."""
    matches = (_OWN.fullmatch(text.strip()) for text in texts)
    references = dict.fromkeys(own["reference"] for own in matches if own is not None)
    return {text: code_facts(Reference.parse(text, folder)) for text in references}
