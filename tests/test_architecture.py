"""The laws of the house: who may import whom, what is light, and what the package lists."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("engines", "models", "passes", "pipeline")
FORBIDDEN = {
    "errors": ("engines", "models", "passes", "pipeline"),
    "engines": ("pipeline", "passes"),
    "models": ("pipeline",),
    "passes": ("pipeline", "engines"),
}
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "transformers", "scipy", "sklearn", "openvino")
LIGHT = (
    "enginery",
    "enginery.engines",
    "enginery.passes.base",
    "enginery.pipeline.build",
    "enginery.pipeline.bundle",
    "enginery.pipeline.cli.main",
    "enginery.pipeline.line",
    "enginery.pipeline.recipe.file",
    "enginery.pipeline.bundle.session",
)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _sources(repository: Path, room: str) -> list[Path]:
    if room == "errors":
        return [repository / "enginery" / "errors.py"]
    return sorted(path for path in (repository / room).rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(repository: Path, room: str) -> None:
    strays = [
        f"{path.relative_to(repository)} imports {name}"
        for path in _sources(repository, room)
        for name in _imports(ast.parse(path.read_bytes()))
        if any(name == f"enginery.{other}" or name.startswith(f"enginery.{other}.") for other in FORBIDDEN[room])
    ]
    assert not strays


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_imported_by_its_folder_name(repository: Path, room: str) -> None:
    # A user's own `engines/` or `models/` would be taken for ours.
    strays = [
        f"{path.relative_to(repository)} imports {name}"
        for path in _sources(repository, room)
        for name in _imports(ast.parse(path.read_bytes()))
        if name.partition(".")[0] in ROOMS
    ]
    assert not strays


def test_a_stage_knows_nothing_of_other_stages_the_store_or_the_terminal(repository: Path) -> None:
    banned = ("enginery.pipeline.stages", "enginery.pipeline.store", "enginery.pipeline.cli", "enginery.pipeline.line")
    strays = [
        f"{path.name} imports {name}"
        for path in sorted((repository / "pipeline" / "stages").glob("*.py"))
        for name in _imports(ast.parse(path.read_bytes()))
        if name.startswith(banned)
    ]
    assert not strays


def test_every_package_is_listed(repository: Path) -> None:
    # One that is missing passes every editable test and is absent from the wheel.
    listed = set(tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {"enginery"} | {
        ".".join(("enginery", *path.parent.relative_to(repository).parts))
        for room in ROOMS
        for path in (repository / room).rglob("__init__.py")
    }
    assert listed == present


def test_every_folder_with_code_is_a_package(repository: Path) -> None:
    bare = {
        path.parent.relative_to(repository).as_posix()
        for room in ROOMS
        for path in (repository / room).rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    }
    assert not bare


@pytest.mark.parametrize("module", LIGHT)
def test_heavy_packages_are_imported_where_they_are_used(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
