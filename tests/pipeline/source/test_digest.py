import os
import subprocess
import sys
import time
from pathlib import Path

import projects
import pytest

from enginery.errors import SourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.recipe.file import load_recipe
from enginery.pipeline.source import source_digest
from enginery.pipeline.source.callables import Reference
from enginery.pipeline.source.digest import code_facts, file_digest, tree_digests


def digest(folder: Path, **options: object) -> str:
    return source_digest(Source(factory="model.py:build", options=options), folder)


@pytest.fixture
def project(tmp_path) -> Path:
    package = {
        "pack/__init__.py": "",
        "pack/thing.py": "from . import other\nfrom .deep.leaf import V\n",
        "pack/other.py": "",
        "pack/deep/__init__.py": "",
        "pack/deep/leaf.py": "V = 1\n",
    }
    model = "import numpy\nfrom blocks import make\nfrom pack import thing\n\ndef build(width=1): ...\n"
    return projects.write(tmp_path, package, model=model, blocks="def make(): ...\n", unrelated="")


def test_the_closure_of_imports_beside_the_file(project):
    facts = code_facts(Reference.parse("model.py:build", project))
    assert set(facts["code"]) == {
        "model.py",
        "blocks.py",
        "pack/__init__.py",
        "pack/thing.py",
        "pack/other.py",
        "pack/deep/__init__.py",
        "pack/deep/leaf.py",
    }
    assert set(facts["packages"]) == {"numpy"}


@pytest.mark.parametrize("changed", ["model.py", "blocks.py", "pack/deep/leaf.py", "pack/__init__.py"])
def test_a_change_in_any_of_them_changes_the_digest(project, changed):
    before = digest(project)
    path = project / changed
    path.write_text(path.read_text() + "# changed\n")
    assert digest(project) != before


def test_a_change_elsewhere_does_not(project):
    before = digest(project)
    projects.write(project, unrelated="V = 2\n")
    assert digest(project) == before


def test_options_count(project):
    assert digest(project, width=1) != digest(project, width=2)


def test_a_file_that_an_option_names_counts(project):
    (project / "table.csv").write_text("1")
    before = digest(project, table="table.csv")
    (project / "table.csv").write_text("2")
    assert digest(project, table="table.csv") != before


@pytest.mark.parametrize("options", [{"files": ["a.txt", "b.txt"]}, {"data": {"train": "b.txt"}}])
def test_files_that_lists_and_mappings_of_options_name_count(project, options):
    for name in ("a.txt", "b.txt"):
        (project / name).write_text("1")
    before = digest(project, **options)
    (project / "b.txt").write_text("2")
    assert digest(project, **options) != before


def test_files_behind_a_link_to_a_folder_count(tmp_path, project):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "a.txt").write_text("1")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (project / "data").mkdir()
    (project / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (project / "data" / "self").symlink_to(project / "data")
    before = digest(project, where="data")
    assert set(tree_digests(project / "data")) == {"link/deep/a.txt"}
    (tmp_path / "elsewhere" / "deep" / "a.txt").write_text("2")
    assert digest(project, where="data") != before


def test_the_place_of_a_project_does_not_count(tmp_path, project):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(project, moved, ignore=shutil.ignore_patterns("elsewhere"))
    assert digest(moved) == digest(project)


def test_modules_that_import_each_other(tmp_path):
    projects.write(tmp_path, model="import other\ndef build(): ...\n", other="import model\n")
    assert set(code_facts(Reference.parse("model.py:build", tmp_path))["code"]) == {"model.py", "other.py"}


def test_a_file_with_a_syntax_error_has_a_digest(tmp_path):
    projects.write(tmp_path, model="def build(:\n")
    assert len(digest(tmp_path)) == 64


def test_the_data_module_of_a_built_in_recipe_counts():
    recipe = load_recipe("digits")
    facts = code_facts(Reference.parse("model.py:build", recipe.folder))
    assert set(facts["code"]) == {"__init__.py", "model.py", "data.py"}
    assert {"torch", "scikit-learn"} <= set(facts["packages"])


def test_a_dotted_factory_of_ours_is_digested_by_its_file(tmp_path):
    facts = code_facts(Reference.parse("enginery.models.minilm.model:build", tmp_path))
    assert list(facts["code"]) == ["model.py"]


def test_a_digest_imports_neither_torch_nor_the_code(tmp_path):
    projects.write(tmp_path, model="import torch\nraise RuntimeError('imported')\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from enginery.pipeline.recipe import Source; from enginery.pipeline.source import source_digest\n"
        "print(source_digest(Source(factory='model.py:build'), Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout.split()[1] == "False"


def test_a_file_changed_without_a_trace_in_its_times_is_noticed_by_the_next_process(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    before = file_digest(path)
    path.write_bytes(b"two")
    assert file_digest(path) != before


def test_a_settled_file_is_read_once(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    old = time.time_ns() - 10**10
    os.utime(path, ns=(old, old))
    before = file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(old, old))
    assert file_digest(path) == before


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        file_digest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("folder", "followed"), [("lib/site-packages", False), ("dist-packages", False), ("src", True)]
)
def test_an_installed_package_of_any_environment_is_known_by_version(tmp_path, monkeypatch, folder, followed):
    name = f"beside_{followed}_{len(folder)}"  # where a package lies is remembered for the process
    beside = tmp_path / folder / f"{name}.py"
    beside.parent.mkdir(parents=True)
    beside.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(beside.parent))
    project = tmp_path / "project"
    project.mkdir()
    projects.write(project, model=f"import {name}\ndef build(): ...\n")
    assert (beside.name in code_facts(Reference.parse("model.py:build", project))["code"]) is followed
