"""Is a build reproducible? Build a recipe again elsewhere, with nothing cached and once more from the store; compare.

Everything but the files that a manifest names as measurements must be equal, byte for byte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from enginery.errors import StageError
from enginery.pipeline.bundle import RELEASE_FILES, SUMS, Verified, verify_digests
from enginery.pipeline.bundle.manifest import FILE_NAME


@dataclass(frozen=True)
class Difference:
    """One file that differs; `field` is the first differing field of a JSON file, or the first differing byte."""

    file: str
    field: str
    first: str
    second: str

    def __str__(self) -> str:
        where = f" at {self.field}" if self.field else ""
        return f"{self.file} differs{where}: {self.first} and {self.second}"


@dataclass(frozen=True)
class Reproduced:
    """Bundles by name with the digest of their manifest, and every difference between the builds."""

    digests: Mapping[str, str]
    differences: Mapping[str, tuple[Difference, ...]]

    def __bool__(self) -> bool:
        return bool(self.digests) and not any(self.differences.values())


def reproduce(recipe: str, options: Sequence[str], work: Path, on_build: Callable[[str], object]) -> Reproduced:
    """Build a recipe three times: twice with empty stores in different folders, and once more from the second store.

    Args:
        recipe: a built-in name or a recipe file.
        options: further arguments of `enginery build`.
        work: an empty folder; what is built stays there.
        on_build: is told what is about to be built.

    Raises:
        StageError: a build failed; the message is its own.
    """
    plan = (("first", "store-1"), ("second", "store-2"), ("from-store", "store-2"))
    for name, store in plan:
        on_build(f"{name} build, {'from the store' if name == 'from-store' else 'nothing cached'}")
        _build(recipe, options, work / name, work / store)
    digests: dict[str, str] = {}
    differences: dict[str, tuple[Difference, ...]] = {}
    for bundle in sorted(path.parent.relative_to(work / "first") for path in (work / "first").rglob(FILE_NAME)):
        folders = [work / name / bundle for name, _ in plan]
        digests[str(bundle)] = verify_digests(folders[0]).manifest_digest
        differences[str(bundle)] = tuple(d for pair in pairwise(folders) for d in compare_bundles(*pair))
    return Reproduced(digests, differences)


def _build(recipe: str, options: Sequence[str], output: Path, store: Path) -> None:
    """Build in a process of its own, so that hash seeds, caches and import order differ as they do between days."""
    command = [sys.executable, "-P", "-m", "enginery", "build", recipe, "--output", str(output), "--quiet", *options]
    done = subprocess.run(
        command,
        env={**os.environ, "ENGINERY_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().removeprefix("Error: ") or f"exit code {done.returncode}"
        raise StageError(f"The build into {output} failed, so there is nothing to compare. {words}")


def compare_bundles(first: Path, second: Path) -> tuple[Difference, ...]:
    """What differs between two bundles of one recipe, engine first, manifest last; measurements are left out.

    Raises:
        IntegrityError: one of them is damaged.
    """
    before, after = verify_digests(first), verify_digests(second)
    old, new = _reproducible(before), _reproducible(after)
    # The manifest repeats every other digest: the cause stands before it.
    names = sorted(old.keys() | new.keys(), key=lambda name: (name == FILE_NAME, name.endswith(".json"), name))
    return tuple(_difference(name, first / name, second / name) for name in names if old.get(name) != new.get(name))


def _reproducible(verified: Verified) -> dict[str, str]:
    free = {SUMS, *RELEASE_FILES, *verified.manifest.measurements}
    return {name: digest for name, digest in verified.sums.items() if name not in free}


def _difference(name: str, first: Path, second: Path) -> Difference:
    if not first.exists() or not second.exists():
        return Difference(name, "", *("present" if path.exists() else "absent" for path in (first, second)))
    if name.endswith(".json"):
        found = next(_fields(json.loads(first.read_bytes()), json.loads(second.read_bytes())), None)
        if found is not None:
            return Difference(name, *found)
    place = _first_byte(first, second)
    return Difference(name, f"byte {place}", f"{first.stat().st_size} bytes", f"{second.stat().st_size} bytes")


def _fields(first: Any, second: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the fields that differ as (`stages[2].tools.torch`, its value here, its value there)."""
    if isinstance(first, dict) and isinstance(second, dict):
        left, right = cast("dict[str, Any]", first), cast("dict[str, Any]", second)
        for key in sorted(left.keys() | right.keys()):
            inner = f"{path}.{key}" if path else key
            if key not in left or key not in right:
                yield inner, _text(left, key), _text(right, key)
            else:
                yield from _fields(left[key], right[key], inner)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            yield from _fields(a, b, f"{path}[{index}]")
    elif first != second or type(first) is not type(second):
        yield path, json.dumps(first)[:100], json.dumps(second)[:100]


def _text(value: Mapping[str, Any], key: str) -> str:
    return json.dumps(value[key])[:100] if key in value else "absent"


def _first_byte(first: Path, second: Path) -> int:
    """The place of the first byte that differs; the length of the shorter file where it is the other's beginning."""
    place = 0
    with first.open("rb") as a, second.open("rb") as b:
        while True:
            left, right = a.read(1 << 20), b.read(1 << 20)
            if left != right or not left:
                common = (i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y)
                return place + next(common, min(len(left), len(right)))
            place += len(left)
