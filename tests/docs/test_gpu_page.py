"""docs/gpu.md lists every test that only a machine with a GPU runs."""

import ast
from collections.abc import Iterator
from pathlib import Path

from documents import ROOT

from enginery.passes.graph.conformance.tensorrt import tensorrt_rules


def gpu_tests(file: Path) -> Iterator[str]:
    """The names of the file's tests and classes of tests that are marked `gpu`."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            marked = {ast.unparse(decorator) for decorator in node.decorator_list}
            if "pytest.mark.gpu" in marked and isinstance(node, ast.ClassDef):
                yield from (each.name for each in node.body if getattr(each, "name", "").startswith("test_"))
            elif "pytest.mark.gpu" in marked:
                yield node.name


def test_every_test_that_needs_a_gpu_is_listed():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    found = [(file.relative_to(ROOT), name) for file in (ROOT / "tests").rglob("*.py") for name in gpu_tests(file)]
    assert len(found) > 5
    assert [f"{file}: {name}" for file, name in found if f"`{name}`" not in page or f"`{file}`" not in page] == []


def test_every_rule_of_the_lint_is_listed():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert [rule.name for rule in tensorrt_rules() if f"`{rule.name}`" not in page] == []
