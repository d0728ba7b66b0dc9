"""docs/gpu.md lists every test that only a machine with a GPU runs."""

import ast
from collections.abc import Iterator
from pathlib import Path

from documents import ROOT

from enginery.passes.graph.conformance.tensorrt import tensorrt_rules


def gpu_tests(file: Path) -> Iterator[str]:
    """The names of the file's tests that are marked `gpu`, one by one or all together."""
    module = ast.parse(file.read_bytes())
    together = any(ast.unparse(node) == "pytestmark = pytest.mark.gpu" for node in module.body)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = {ast.unparse(decorator) for decorator in node.decorator_list}
            if together or "pytest.mark.gpu" in marks:
                yield node.name


def test_every_test_that_needs_a_gpu_is_listed():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    found = [(file.relative_to(ROOT), name) for file in (ROOT / "tests").rglob("*.py") for name in gpu_tests(file)]
    assert len(found) > 5
    assert [f"{file}: {name}" for file, name in found if f"`{name}`" not in page or f"`{file}`" not in page] == []


def test_every_rule_of_the_lint_is_listed():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert [rule.name for rule in tensorrt_rules() if f"`{rule.name}`" not in page] == []
