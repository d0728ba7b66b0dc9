from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.pipeline.store import keys
from enginery.pipeline.store.keys import code_digests, make_key, tool_version

PARTS: dict[str, Any] = {
    "config": {"opset": 20, "dims": {"batch": [1, 2, 4]}},
    "inputs": {"source": "a" * 64},
    "code": ["enginery.pipeline.stages.export"],
    "tools": ["numpy", "no-such-distribution"],
}


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    """Let the caches of source files be read anew: the test changes a file."""
    for cached in (keys.code_digests, keys._read, keys._source):
        cached.cache_clear()
    yield
    for cached in (keys.code_digests, keys._read, keys._source):
        cached.cache_clear()


def test_equal_parts_give_equal_keys_whatever_their_order() -> None:
    other = {**PARTS, "config": {"dims": {"batch": [1, 2, 4]}, "opset": 20}, "tools": reversed(PARTS["tools"])}
    assert make_key("export", **PARTS).digest == make_key("export", **other).digest


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"config": {**PARTS["config"], "opset": 21}}, "config.opset"),
        ({"config": {"opset": 20, "dims": {"batch": [1, 2, 5]}}}, "config.dims.batch"),
        ({"inputs": {"source": "b" * 64}}, "input.source"),
        ({"tools": ["numpy"]}, "tool.no-such-distribution"),
    ],
)
def test_each_part_changes_the_key_and_is_named(change: dict[str, Any], part: str) -> None:
    before, after = make_key("export", **PARTS), make_key("export", **{**PARTS, **change})
    assert before.digest != after.digest
    assert {n for n in {*before.parts, *after.parts} if before.parts.get(n) != after.parts.get(n)} == {part}


def test_the_stage_is_part_of_the_key() -> None:
    assert make_key("export", **PARTS).digest != make_key("optimize", **PARTS).digest


def test_values_that_only_print_alike_differ() -> None:
    def key(value: object) -> str:
        return make_key("s", config={"v": value}, inputs={}, code=[], tools=[]).digest

    assert len({key(value) for value in (1, "1", True, "True", 1.0, None, "None", [], {}, [1], ["1"])}) == 11


@given(st.dictionaries(st.text(min_size=1), st.recursive(st.integers() | st.text(), st.lists), max_size=4))
def test_a_configuration_is_flattened_without_loss_of_determinism(config: dict[str, Any]) -> None:
    one, two = (make_key("s", config=dict(c), inputs={}, code=[], tools=[]) for c in (config, reversed(config.items())))
    assert one.digest == two.digest


def test_code_is_followed_through_imports_but_not_into_what_is_unrelated() -> None:
    found = code_digests(("enginery.pipeline.stages.export",))
    assert {"enginery.pipeline.comparison.outputs", "enginery.engines.onnxruntime", "enginery.engines.base"} <= set(
        found
    )
    assert not any(name.startswith(("enginery.passes.quantize", "enginery.pipeline.cli")) for name in found)
    assert "enginery.errors" not in found


def test_a_package_that_imports_by_computed_names_counts_whole() -> None:
    found = code_digests(("enginery.passes.graph",))
    assert "enginery.passes.graph.clean.fold_constants" in found


@pytest.mark.usefixtures("fresh_caches")
def test_a_changed_source_file_changes_the_keys_that_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = keys._source

    def moved(module: str) -> Path | None:
        path = real(module)
        if module != "enginery.pipeline.comparison.outputs" or path is None:
            return path
        copy = tmp_path / "comparison.py"
        copy.write_bytes(path.read_bytes() + b"\n# changed\n")
        return copy

    before = {stage: code_digests((f"enginery.pipeline.stages.{stage}",)) for stage in ("export", "compile")}
    code_digests.cache_clear()
    monkeypatch.setattr(keys, "_source", moved)
    after = {stage: code_digests((f"enginery.pipeline.stages.{stage}",)) for stage in ("export", "compile")}
    changed = {name for name in before["export"] if before["export"][name] != after["export"].get(name)}
    assert changed == {"enginery.pipeline.comparison.outputs"}
    assert before["compile"] == after["compile"]


def test_versions_of_tools() -> None:
    import numpy as np

    assert tool_version("numpy") == np.__version__
    assert tool_version("no-such-distribution") == "absent"
