from __future__ import annotations

from pathlib import Path

import pytest
import tiny_recipes

from enginery.errors import RecipeError, UsageError
from enginery.pipeline.recipe import Mode
from enginery.pipeline.recipe.file import builtin_recipes, load_recipe, parse_recipe

GOOD = """\
name: net
source: {onnx: net.onnx}
inputs:
  x: {shape: [batch, 3]}
dims:
  batch: {min: 1, opt: 2, max: 4}
"""


def _faults(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value)


def test_a_good_recipe_is_read() -> None:
    recipe = parse_recipe(GOOD + "precision: int8\n", "r.yaml")
    assert recipe.inputs["x"].shape == ("batch", 3)
    assert recipe.precision.mode is Mode.INT8


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("precison: int8", "line 7: unknown key `precison`. Did you mean `precision`? Allowed here: data, "),
        ("precision: int9", "line 7: `precision`: given 'int9'; input should be 'fp32', 'fp16', 'bf16', 'int8'"),
        (
            "speed: {minimun: 2}",
            "unknown key `speed.minimun`. Did you mean `minimum`? Allowed here: minimum, required.",
        ),
        ("metric: {name: top1}", "line 7: `metric.max_drop` is missing."),
        ("graph_passes: 3", "line 7: `graph_passes`: given 3"),
        (
            "targets: onnxruntime-cpu",
            "line 7: `targets`: given 'onnxruntime-cpu'; input should be a list, such as [a, b].",
        ),
        ("targets: [onnxruntime]", "line 7: `targets`: there is no target 'onnxruntime'; available: onnxruntime-cpu, "),
        ("engine: {onnxruntime: {threads: 1}}", "line 7: `engine`: there is no target 'onnxruntime'; available: "),
        ("speed: {minimum: 1.2x}", "`speed.minimum`: given '1.2x'; input should be a number."),
        ("seed: -1", "`seed`: given -1; input should be greater than or equal to 0."),
        ("precision: {overrides: [{nodez: a}]}", "unknown key `precision.overrides.0.nodez`. Did you mean `nodes`?"),
        ("tolerances: {flot: {relative: 1}}", "Did you mean `float`?"),
        ("name: again", "line 7: 'name' is given twice (first on line 1)"),
        (
            "tolerances: {float: {relative: -1}}",
            "`tolerances.float.relative`: given -1; input should be greater than 0",
        ),
        ("tolerances: {quantized: {snr: .nan}}", "`tolerances.quantized.snr`: given nan; input should be a finite"),
        ("metric: {name: top1, max_drop: .inf}", "`metric.max_drop`: given inf; input should be a finite number"),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_is_allowed(line: str, words: str) -> None:
    assert words in _faults(GOOD + line + "\n")


def test_every_fault_is_listed_at_once() -> None:
    text = GOOD.replace("opt: 2", "opt: 9") + "precison: int8\nopset: 3\n"
    message = _faults(text)
    assert "line 6: `dims.batch`" in message
    assert "expected min <= opt <= max, given 1, 9, 4" in message
    assert "line 7: unknown key" in message
    assert "line 8: `opset`: given 3" in message


def test_a_source_of_two_kinds_is_refused_in_words() -> None:
    assert "give exactly one of factory, onnx, hf, timm, pt2" in _faults(GOOD.replace("{onnx: net.onnx}", "{}"))


def test_an_undeclared_dimension_is_named() -> None:
    assert "absent from `dims`: ['time']" in _faults(GOOD.replace("[batch, 3]", "[batch, time]"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "a recipe is a mapping of keys to values; given a list"),
        ("name: [\n", "is not valid YAML"),
        ("just words", "given a str"),
        ("a: &a [*a]\n", "the value contains itself"),
        ("name: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("[" * 40 + "]" * 40, "nested deeper than"),
    ],
)
def test_what_is_no_recipe_gets_a_clear_word(text: str, words: str) -> None:
    assert words in _faults(text)


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "YAML aliases" in _faults("\n".join(lines))


def test_recipes_are_found_by_name_file_and_folder(tmp_path: Path) -> None:
    path = tiny_recipes.write_recipe(tmp_path / "net")
    assert load_recipe(str(path)).folder == path.parent.resolve()
    assert load_recipe(str(path.parent)).path == path.resolve()
    assert load_recipe("minilm").recipe.name == "minilm"


def test_every_built_in_recipe_is_valid_and_named_as_its_folder() -> None:
    assert {"minilm", "digits"} <= set(builtin_recipes())
    for name in builtin_recipes():
        assert load_recipe(name).recipe.name == name


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"neither a built-in name \(digits, minilm.*Did you mean 'minilm'"):
        load_recipe("minilmm")


def test_a_folder_without_a_recipe_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds no recipe\.yaml"):
        load_recipe(str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"\x08\xff\xfe")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        load_recipe(str(tmp_path / "model.onnx"))
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(RecipeError, match="Is it another file"):
        load_recipe(str(tmp_path / "huge.yaml"))
