"""The wheel carries every package and file, and what runs a bundle needs neither torch nor onnx.

An editable install hides both kinds of fault: it finds folders that no list names.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from bundles import make_bundle

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("enginery", "engines", "models", "passes", "pipeline")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def import_name(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "enginery" else ("enginery", *parts))


def sources() -> list[Path]:
    return [
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def test_every_folder_with_an_init_is_a_listed_package():
    found = {import_name(path.parent) for path in sources() if path.name == "__init__.py"}
    assert found == set(SETUPTOOLS["packages"])


def test_every_folder_with_modules_has_an_init():
    folders = {path.parent for path in sources() if path.suffix == ".py"}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_other_file_is_package_data():
    for path in sources():
        if path.suffix != ".py":
            matches = [
                fnmatch(path.relative_to(package_folder(package)).as_posix(), pattern)
                for package, patterns in SETUPTOOLS["package-data"].items()
                for pattern in patterns
                if path.is_relative_to(package_folder(package))
            ]
            assert any(matches), f"{path.relative_to(ROOT)} is in no list of package-data"


def package_folder(package: str) -> Path:
    parts = package.split(".")
    return ROOT.joinpath(*parts) if len(parts) == 1 else ROOT.joinpath(*parts[1:])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves a `build/` beside what it builds, which here is where bundles go.
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("tests/", "bench/", "docs/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    run(sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("enginery-*.whl")
    return built


def run(*command: object, cwd: Path | None = None, **variables: str) -> str:
    """Run away from the checkout, without what this environment would lend."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ENGINERY"))} | variables
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd or "/", env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_source(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{import_name(path.parent).replace('.', '/')}/{path.name}" for path in sources() if path.suffix == ".py"
    }
    assert expected <= names
    assert {name for name in names if name.endswith(".py")} == expected, "nothing else is packed"
    assert "enginery/py.typed" in names
    assert "enginery/models/minilm/recipe.yaml" in names


@pytest.mark.slow
def test_a_bare_environment_verifies_and_runs_a_bundle(wheel, tmp_path):
    """The core's dependencies and onnxruntime: nothing that builds."""
    bundle = make_bundle(tmp_path / "bundle")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, "onnxruntime")
    installed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    assert {"torch", "onnx", "scipy"}.isdisjoint({package["name"] for package in installed})
    enginery = tmp_path / "venv" / "bin" / "enginery"
    assert "all as they were built" in run(enginery, "verify", bundle)
    make_inputs = "import numpy, sys; numpy.savez(sys.argv[1], x=numpy.ones((2, 6), 'float32'))"
    run(python, "-c", make_inputs, tmp_path / "x.npz")
    assert "y: float32[2, 3]" in run(enginery, "run", bundle, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    code = (
        "import enginery, sys; s = enginery.load(sys.argv[1]); print(s.describe()['provider'], 'torch' in sys.modules)"
    )
    assert run(python, "-c", code, bundle).strip() == "CPUExecutionProvider False"
    assert "minilm" in run(enginery, "models")
    assert "pip install 'enginery[cpu]'" in run(enginery, "doctor")


@pytest.mark.slow
def test_the_wheel_builds_away_from_the_checkout(wheel, tmp_path):
    """With this environment's heavy packages, and Enginery itself from the wheel alone."""
    run(sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "lib", wheel)
    where = run(
        sys.executable, "-P", "-c", "import enginery; print(enginery.__file__)", PYTHONPATH=str(tmp_path / "lib")
    )
    assert where.startswith(str(tmp_path))
    built = run(
        sys.executable, "-P", "-m", "enginery", "build", "digits", "-q", cwd=tmp_path, PYTHONPATH=str(tmp_path / "lib")
    )
    assert built == "build/digits/onnxruntime-cpu-fp32\n"


@pytest.mark.slow
def test_a_repository_with_packages_of_our_folders_names(tmp_path):
    """Research repositories have an `engines`, a `models` and a `pipeline` of their own, and export from inside."""
    for name in ("engines", "models", "pipeline", "passes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("WIDTH = 3\n")
    (tmp_path / "models" / "net.py").write_text(
        "import torch\nfrom engines import WIDTH\nfrom pipeline import WIDTH as SAME\n\n"
        "def build():\n    assert WIDTH == SAME\n    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 2))\n"
    )
    (tmp_path / "samples.py").write_text(
        "import numpy as np\nimport models\n\n"
        "def batches():\n    yield {'input': np.arange(12, dtype='float32').reshape(4, models.WIDTH)}\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "name: research\n"
        "source: {factory: 'models/net.py:build'}\n"
        "inputs: {input: {dtype: float32, shape: [batch, 3]}}\n"
        "dims: {batch: {min: 1, opt: 4, max: 8}}\n"
        "data: {evaluation: {python: 'samples.py:batches'}}\n"
    )
    built = run(sys.executable, "-P", "-m", "enginery", "build", "recipe.yaml", "-q", cwd=tmp_path)
    assert built == "build/research/onnxruntime-cpu-fp32\n"
