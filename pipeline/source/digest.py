"""Digests of files and of Python code, for the store's keys. Nothing here imports torch or the code it looks at.

Files are always read: size and time of change do not prove that a file is the same (`cp -p`, `touch -r`, some network
file systems). Within one process a digest is remembered by size, time of change and inode, unless the file changed
within the last seconds.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from enginery.errors import SourceError
from enginery.pipeline.files import files_below, sha256_file
from enginery.pipeline.source.callables import Reference

SETTLED = 2 * 10**9
"""Nanoseconds after which a file's time of change can be told from that of its next change on any file system."""

_INSTALLED = frozenset({"site-packages", "dist-packages"})

_remembered: dict[tuple[str, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        status = path.stat()
        key = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
        if key in _remembered:
            return _remembered[key]
        digest = sha256_file(path)
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}.") from error
    if time.time_ns() - status.st_mtime_ns > SETTLED:
        _remembered[key] = digest
    return digest


def code_facts(reference: Reference) -> dict[str, dict[str, str]]:
    """What a callable's behaviour rests on: its own code and the packages it uses.

    Returns:
        `code`: sha256 by file name of the module and every module beside it (not installed) that it imports, directly
        or not; `packages`: version by distribution name. Imports made by name at run time are not seen.
    """
    entry = reference.file or _locate(reference.module, reference.roots)
    if entry is None:
        top = reference.module.partition(".")[0]
        return {"code": {}, "packages": _versions([top])}
    code: dict[str, str] = {}
    foreign: set[str] = set()
    waiting, seen = [entry], {entry}
    while waiting:
        path = waiting.pop()
        code[_name(path, reference.roots)] = file_digest(path)
        for name in _imports(path, reference):
            found = _locate(name, reference.roots)
            if found is None:
                foreign.add(name.partition(".")[0])
            elif found not in seen:
                seen.add(found)
                waiting.append(found)
    return {"code": dict(sorted(code.items())), "packages": _versions(foreign)}


def tree_digests(path: Path) -> dict[str, str]:
    """sha256 by relative name of a file, or of every file below a folder, behind links to folders too."""
    if path.is_file():
        return {path.name: file_digest(path)}
    return {file.relative_to(path).as_posix(): file_digest(file) for file in _files(path)}


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file below a folder, sorted. A link that leads back to a folder it lies in is not followed."""
    above = (*above, folder.resolve())
    for file in files_below(folder):
        if file.is_file():
            yield file
        elif file.is_dir() and file.resolve() not in above:
            yield from _files(file, (*above, *(each.resolve() for each in file.parents if each.is_relative_to(folder))))


def option_files(options: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """sha256 of the files and folders that options of a callable name, relative to the recipe's folder.

    Names count wherever they stand: in lists and mappings of options, too.
    """
    found: dict[str, str] = {}
    for key, value in _texts(options):
        if value and (path := folder / value).exists():
            found |= {f"{key}:{name}": digest for name, digest in tree_digests(path).items()}
    return found


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text inside a value as it stands in a recipe, with where it stands: `files.0`."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping | list | tuple):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in cast("Iterable[tuple[Any, Any]]", entries):
            yield from _texts(inner, f"{key}.{name}" if key else str(name))


def _name(path: Path, roots: Iterable[Path]) -> str:
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return path.relative_to(root).as_posix() if root is not None else path.name


def _imports(path: Path, reference: Reference) -> Iterator[str]:
    """Every module that a file may import, packages above it included."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return  # importing it will say so, with the line
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (_package(path, node.level, reference), node.module or "") if part)
            names = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            # Importing `a.b` runs `a` first; of `from a import b` it is not known whether b is a module.
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _package(path: Path, level: int, reference: Reference) -> str:
    """The dotted package that a relative import of `level` dots in `path` starts from."""
    if level == 0:
        return ""
    folder = path.parents[level - 1]
    root = next((root for root in reversed(reference.roots) if folder.is_relative_to(root)), None)
    if root is not None:
        return ".".join(folder.relative_to(root).parts)
    parts: list[str] = []
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def _locate(name: str, roots: Iterable[Path]) -> Path | None:
    """The file of a module that is not installed, or None: the standard library, installed packages, built-ins."""
    parts = name.split(".")
    if parts[0] == "enginery":
        return _find_ours(name)
    if parts[0] in sys.stdlib_module_names:
        return None
    for root in roots:
        found = _file_at(root, parts)
        if found is not None:
            return found
    return _find_editable(parts)


def _find_ours(name: str) -> Path | None:
    """A file of a recipe in `enginery.models`; the rest of Enginery is versioned by the store itself."""
    if not name.startswith("enginery.models."):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _find_editable(parts: list[str]) -> Path | None:
    """A module of a package that is imported from its sources (`pip install -e`, `PYTHONPATH`)."""
    locations = _top_level(parts[0])
    for location in locations:
        found = _file_at(location, parts)
        if found is not None:
            return found
    return None


@cache
def _top_level(name: str) -> tuple[Path, ...]:
    """The folders that hold the top-level module `name`, unless it is installed or built in."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location and spec.origin else [])]
    folders = tuple({Path(place).parent for place in places})
    return tuple(folder for folder in folders if not _installed(folder))


def _installed(folder: Path) -> bool:
    """Whether packages lie here that have a version: this environment's, the system's, the user's or another's."""
    return folder.is_relative_to(sysconfig.get_path("stdlib")) or not _INSTALLED.isdisjoint(folder.parts)


def _file_at(root: Path, parts: list[str]) -> Path | None:
    base = root.joinpath(*parts)
    for candidate in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if candidate.is_file() and _INSTALLED.isdisjoint(candidate.parts[len(root.parts) :]):
            return candidate.resolve()
    return None


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that install these top-level modules. Standard-library modules have none."""
    wanted = sorted(set(modules) - sys.stdlib_module_names - {"enginery"})
    owners = importlib.metadata.packages_distributions() if wanted else {}
    distributions = {distribution for module in wanted for distribution in owners.get(module, [])}
    return {name: importlib.metadata.version(name) for name in sorted(distributions)}
