import os
import sys
from pathlib import Path

import projects
import pytest

from enginery.errors import DataError, RecipeError, SourceError
from enginery.pipeline.source.callables import Reference, call, forget_projects, import_callable


def function(folder: Path, text: str = "model.py:build"):
    return import_callable(Reference.parse(text, folder), SourceError)


@pytest.mark.parametrize("text", ["model.py", "model.py:", ":build", "model.py:a b", ""])
def test_a_reference_of_another_form_is_refused(tmp_path, text):
    with pytest.raises(RecipeError, match=r"file\.py:function"):
        Reference.parse(text, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"there is no file .*model\.py"):
        Reference.parse("model.py:build", tmp_path)


def test_a_missing_function_lists_what_is_there(tmp_path):
    projects.write(tmp_path, model="def make(): ...\n")
    with pytest.raises(SourceError, match=r"no callable 'build' there\. It has: make"):
        function(tmp_path)


def test_a_file_imports_modules_beside_it(tmp_path):
    projects.write(tmp_path, {"parts/inner.py": "V = 7\n"}, model="from parts.inner import V\nbuild = lambda: V\n")
    assert function(tmp_path)() == 7


def test_a_file_in_a_folder_sees_the_recipe_folder_too(tmp_path):
    projects.write(tmp_path, {"models/net.py": "from layers import V\nbuild = lambda: V\n"}, layers="V = 3\n")
    assert function(tmp_path, "models/net.py:build")() == 3


def test_a_dotted_module_is_found_in_the_recipe_folder(tmp_path):
    net = "from .deep import V\nbuild = lambda: V\n"
    projects.write(tmp_path, {"pack/__init__.py": "", "pack/net.py": net, "pack/deep.py": "V = 5\n"})
    assert function(tmp_path, "pack.net:build")() == 5


@pytest.mark.parametrize("name", ["engines", "models", "pipeline", "passes"])
def test_a_repository_may_have_packages_called_like_our_folders(tmp_path, name):
    files = {f"{name}/__init__.py": "", f"{name}/own.py": "V = 1\n"}
    projects.write(tmp_path, files, model=f"from {name}.own import V\nbuild = lambda: V\n")
    assert function(tmp_path)() == 1
    import enginery.pipeline.recipe

    assert enginery.pipeline.recipe.Recipe.__module__ == "enginery.pipeline.recipe.schema"


def test_two_projects_with_modules_of_the_same_names(tmp_path):
    for value in (1, 2):
        folder = tmp_path / str(value)
        projects.write(folder, model="from blocks import V\nbuild = lambda: V\n", blocks=f"V = {value}\n")
    assert [function(tmp_path / name)() for name in ("1", "2", "1")] == [1, 2, 1]


def test_a_module_may_be_imported_when_the_function_runs(tmp_path):
    projects.write(tmp_path, model="def build():\n    from late import V\n    return V\n", late="V = 4\n")
    assert function(tmp_path)() == 4


def test_a_changed_file_is_imported_again_with_what_is_beside_it(tmp_path):
    projects.write(tmp_path, model="from blocks import V\nbuild = lambda: V\n", blocks="V = 1\n")
    assert function(tmp_path)() == 1
    projects.write(tmp_path, blocks="V = 2\n")
    os.utime(tmp_path / "blocks.py", ns=(1, 1))
    assert function(tmp_path)() == 2


def test_an_unchanged_file_is_imported_once(tmp_path):
    projects.write(tmp_path, model="def build(): ...\n")
    assert function(tmp_path) is function(tmp_path)


@pytest.mark.parametrize("name", ["my-net", "json", "torch"])
def test_a_file_whose_name_import_cannot_say_or_belongs_to_others(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("build = lambda: 9\n")
    assert function(tmp_path, f"{name}.py:build")() == 9
    import json

    assert json.loads("1") == 1


def test_no_bytecode_is_left_in_the_project(tmp_path):
    projects.write(tmp_path, model="import blocks\nbuild = lambda: 1\n", blocks="")
    function(tmp_path)
    assert not list(tmp_path.rglob("__pycache__"))


def test_forgetting_restores_what_a_project_displaced(tmp_path):
    foreign = tmp_path / "foreign"
    projects.write(foreign, blocks="V = 'foreign'\n")
    sys.path.insert(0, str(foreign))
    try:
        import blocks

        projects.write(tmp_path / "own", model="from blocks import V\nbuild = lambda: V\n", blocks="V = 'own'\n")
        before = list(sys.path)
        assert function(tmp_path / "own")() == "own"
        forget_projects()
        assert sys.modules["blocks"] is blocks
        assert sys.path == before
        assert "model" not in sys.modules
    finally:
        sys.path.remove(str(foreign))
        sys.modules.pop("blocks", None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no weights')\n", r"importing it raised ValueError: no weights \(model\.py, line 1"),
        ("def build(:\n", r"importing it raised SyntaxError: .*\(model\.py, line 1\)"),
        ("import not_there\n", r"ModuleNotFoundError: No module named 'not_there' \(model\.py, line 1"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(model\.py, line 2"),
    ],
)
def test_what_an_import_raises_is_told_with_its_line(tmp_path, code, message):
    (tmp_path / "model.py").write_text(code)
    with pytest.raises(SourceError, match=message):
        function(tmp_path)


def test_what_a_call_raises_is_told_with_the_projects_own_line(tmp_path):
    projects.write(tmp_path, model="import json\ndef build():\n    return json.loads('{')\n")
    reference = Reference.parse("model.py:build", tmp_path)
    with pytest.raises(DataError, match=r"calling it raised JSONDecodeError: .*\(model\.py, line 3: return json"):
        call(import_callable(reference, DataError), reference, {}, DataError)


def test_our_own_errors_pass_unchanged(tmp_path):
    projects.write(tmp_path, model="from enginery.errors import DataError\ndef build():\n    raise DataError('mine')\n")
    reference = Reference.parse("model.py:build", tmp_path)
    with pytest.raises(DataError, match=r"^mine$"):
        call(import_callable(reference, SourceError), reference, {}, SourceError)


def test_options_that_do_not_fit_show_the_signature(tmp_path):
    projects.write(tmp_path, model="def build(width=4): ...\n")
    reference = Reference.parse("model.py:build", tmp_path)
    with pytest.raises(RecipeError, match=r"takes \(width=4\), and `options` give \['wdith'\]"):
        call(import_callable(reference, SourceError), reference, {"wdith": 3}, SourceError)
