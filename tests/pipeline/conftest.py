import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Path:
    """A folder with `ours.pem`, `ours.pub`, and another pair `theirs`."""
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in (("ours", "prime256v1"), ("theirs", "prime256v1"), ("large", "secp384r1")):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        make = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", private]
        subprocess.run(make, check=True, capture_output=True)
        subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """An ONNX model of two layers that builds in a second."""
    from tiny_recipes import write_recipe

    return write_recipe(tmp_path / "recipe")
