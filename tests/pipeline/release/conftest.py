import shutil
import subprocess
from pathlib import Path

import pytest
from bundles import make_bundle


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


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    """An unsigned bundle; not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("pristine") / "bundle")


@pytest.fixture(scope="session")
def pristine_signed(pristine, keys, tmp_path_factory) -> Path:
    """The same bundle, signed with `ours`; not to be changed."""
    from enginery.pipeline.release.sign import sign_bundle

    copy = tmp_path_factory.mktemp("signed") / "bundle"
    shutil.copytree(pristine, copy)
    sign_bundle(copy, keys / "ours.pem")
    return copy


@pytest.fixture
def bundle(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture
def signed(pristine_signed, tmp_path) -> Path:
    return Path(shutil.copytree(pristine_signed, tmp_path / "signed"))
