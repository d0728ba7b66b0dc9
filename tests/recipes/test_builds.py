"""Whole builds of real files and of recipes with a fault: each ends in a right bundle or a clear word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import projects
import pytest
import yaml
from tiny_recipes import run_build

from enginery.errors import DataError, RecipeError, SourceError
from enginery.pipeline.bundle import verify_bundle

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ultraface", "ppocr", "silero"])
def test_a_real_onnx_file_ends_in_a_bundle(shared_data, tmp_path, name):
    """Initializers that are inputs; dynamic height and width; a state, a scalar input and subgraphs."""
    result = run_build(HERE / "onnx" / f"{name}.yaml", tmp_path)
    assert result.validated
    verify_bundle(result.bundle)


@pytest.fixture
def recipe(tmp_path):
    """A module of five lines in a folder of its own, and the function that builds it with changes."""
    folder = projects.write(
        tmp_path / "mine",
        model="import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n",
        data="""
            import numpy as np

            def batches(bad=None):
                x = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
                if bad is not None:
                    x[bad, 2, 1] = np.nan
                yield from ({"input": batch} for batch in x)
        """,
    )
    base = {
        "name": "mine",
        "source": {"factory": "model.py:build"},
        "inputs": {"input": {"shape": ["batch", 3]}},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
        "data": {"evaluation": {"python": "data.py:batches"}},
    }

    def run(**changes):
        (folder / "recipe.yaml").write_text(yaml.safe_dump({**base, **changes}))
        return run_build(folder / "recipe.yaml", tmp_path / "build")

    return run


def test_a_module_of_five_lines(recipe):
    verify_bundle(recipe().bundle)


def test_one_nan_in_the_evaluation_data(recipe, tmp_path):
    with pytest.raises(DataError, match=r"data\.py:batches, batch 3, input 'input' holds 1 values .* index \[2, 1\]"):
        recipe(data={"evaluation": {"python": "data.py:batches", "options": {"bad": 2}}})
    assert not (tmp_path / "build" / "mine").exists()


def test_a_typo(recipe):
    with pytest.raises(RecipeError, match=r"unknown key `tolerences`\. Did you mean `tolerances`"):
        recipe(tolerences={})


def test_a_factory_that_raises(recipe, tmp_path):
    projects.write(tmp_path / "mine", model="def build():\n    raise RuntimeError('weights are elsewhere')\n")
    with pytest.raises(SourceError, match=r"RuntimeError: weights are elsewhere \(model\.py, line 2"):
        recipe()


def test_a_build_inside_a_repository_with_packages_called_like_ours(recipe, tmp_path, monkeypatch):
    names = ("engines", "models", "passes", "pipeline")
    files = {f"{name}/__init__.py": f"NAME = '{name}'\n" for name in names}
    imports = "".join(f"import {name}\n" for name in names)
    projects.write(
        tmp_path / "mine",
        files,
        model=f"import torch\n{imports}\ndef build():\n    assert models.NAME\n    return torch.nn.Linear(3, 2)\n",
    )
    monkeypatch.chdir(tmp_path / "mine")
    result = recipe()
    verify_bundle(result.bundle)
    assert not list((tmp_path / "mine").rglob("__pycache__"))


def test_a_factory_with_random_weights_is_the_same_in_two_builds(recipe, tmp_path):
    first = recipe().bundle / "engine" / "model.onnx"
    before = first.read_bytes()
    assert recipe().reused
    projects.write(
        tmp_path / "mine", model="import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n# changed\n"
    )
    recipe()
    assert np.array_equal(np.frombuffer(first.read_bytes(), np.uint8), np.frombuffer(before, np.uint8))
