"""What a stage's result depends on, spelled out part by part.

A key is a mapping of named parts: the stage, its configuration, the digests of the results it reads, the digest of
every source file of ours that its code can reach, and the versions of the tools it calls. Two builds with equal keys
give equal results. Because the parts have names, the store can say which of them changed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from enginery.pipeline.files import digest_json

_IMPORT = re.compile(rb"^\s*import\s+(enginery(?:\.\w+)+)", re.MULTILINE)
_QUOTED = re.compile(rb"""["'](enginery(?:\.\w+)+)[:"']""")
_FROM_PACKAGE = re.compile(rb"^\s*from\s+(enginery(?:\.\w+)*)\s+import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_NAME = re.compile(rb"\w+")
_DYNAMIC = re.compile(rb"\b(?:importlib|pkgutil|import_module|iter_modules|__path__)\b")


@dataclass(frozen=True)
class Key:
    """The parts of a key, flat: `config.opset`, `input.export`, `code.enginery.passes.base`, `tool.torch`."""

    stage: str
    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest_json({"stage": self.stage, **self.parts})


def make_key(
    stage: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: Iterable[str],
    tools: Iterable[str],
) -> Key:
    """Assemble a key.

    Args:
        stage: the stage's name.
        config: JSON-ready options of the stage.
        inputs: digests of what the stage reads, by name.
        code: modules of ours that the stage runs; what they import is found from their source.
        tools: names of installed distributions.
    """
    parts = dict(_flatten("config", config))
    parts |= {f"input.{name}": digest for name, digest in inputs.items()}
    parts |= {f"code.{module}": digest for module, digest in code_digests(tuple(sorted(set(code)))).items()}
    parts |= {f"tool.{name}": tool_version(name) for name in sorted(set(tools))}
    parts["tool.python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Key(stage, parts)


def _flatten(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}", inner)
    else:
        yield prefix, repr(list(value)) if isinstance(value, tuple) else repr(value)


@cache
def tool_version(distribution: str) -> str:
    """The installed version of a distribution, or `absent`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def tool_versions(distributions: Iterable[str]) -> dict[str, str]:
    return {name: version for name in sorted(set(distributions)) if (version := tool_version(name)) != "absent"}


@cache
def code_digests(modules: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of each of our source files that `modules` can reach by imports, found without importing them."""
    seen: dict[str, str] = {}
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        path = _source(module)
        if path is None:
            continue
        source, digest = _read(path)
        seen[module] = digest
        queue.extend(_reachable(module, path, source))
    return dict(sorted(seen.items()))


def _reachable(module: str, path: Path, source: bytes) -> Iterable[str]:
    """Yield what a source of ours imports: by statement, by a name in quotes (lazy registries), or by computed names.

    Computed names can reach every module of their package, so all of them are taken.
    """
    for pattern in (_IMPORT, _QUOTED):
        for match in pattern.finditer(source):
            yield match.group(1).decode()
    for match in _FROM_PACKAGE.finditer(source):
        package = match.group(1).decode()
        yield package
        for name in _NAME.findall(match.group(2)):
            yield f"{package}.{name.decode()}"
    if path.name == "__init__.py" and _DYNAMIC.search(source):
        for file in path.parent.rglob("*.py"):
            parts = file.relative_to(path.parent).with_suffix("").parts
            yield ".".join([module, *(part for part in parts if part != "__init__")])


@cache
def _read(path: Path) -> tuple[bytes, str]:
    source = path.read_bytes()
    return source, hashlib.sha256(source).hexdigest()


@cache
def _source(module: str) -> Path | None:
    """The file of one of our modules, or None for a name inside a module."""
    root, *rest = module.split(".")
    if not rest or rest[0] in {"errors", "_version", "__main__"}:
        # No result depends on the public API or on the words of errors.
        return None
    room = find_spec(f"{root}.{rest[0]}")
    if room is None or room.origin is None:
        return None
    if room.submodule_search_locations is None:
        return Path(room.origin) if len(rest) == 1 else None
    base = Path(room.origin).parent.joinpath(*rest[1:])
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None
